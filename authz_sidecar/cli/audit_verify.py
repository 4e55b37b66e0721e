"""`authz-sidecar audit verify`: recompute the whole ledger, and compare it with a checkpoint from outside."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import typer

from authz_sidecar.cli.audit import LedgerOption, opened_ledger
from authz_sidecar.cli.exit_code import ExitCode
from authz_sidecar.cli.screen import OutputFormat, OutputOption, Screen
from authz_sidecar.cli.settings import DEFAULT_CONFIG, ConfigOption

if TYPE_CHECKING:
    from authz_sidecar.ledger.verify import Progress, VerifyResult
    from authz_sidecar.strictjson import Json

CODES: Mapping[str, ExitCode] = MappingProxyType(
    {
        "verified": ExitCode.OK,
        "verified_unanchored": ExitCode.UNANCHORED,
        "tampered": ExitCode.UNSAFE,
        "incomplete": ExitCode.INCOMPLETE,
    }
)
_STYLES = {"verified": "bold green", "verified_unanchored": "bold yellow"}


def verify(
    vkey: Annotated[
        Path, typer.Option("--vkey", metavar="FILE", help="The log's verifier key, kept since the ledger began.")
    ],
    *,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", metavar="FILE|-", help="A checkpoint that was kept outside; `-` reads it."),
    ] = None,
    ledger: LedgerOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Recompute every hash, signature and projection of the ledger from its entries.

    Exits with 0 when everything fits and fits the checkpoint from outside, 6 when it fits but no such checkpoint was
    given, 4 when something was tampered with, 5 when entries or payloads are missing.
    """
    from authz_sidecar.ledger.verify import verify as verify_ledger

    pinned = vkey.read_text("utf-8", errors="replace").removesuffix("\n")
    note = _read_checkpoint(checkpoint) if checkpoint is not None else None
    screen = Screen(output)
    with opened_ledger(ledger, config) as reader, _progress_bar(shown=not screen.json) as progress:
        result = verify_ledger(reader, vkey=pinned, checkpoint=note, progress=progress)
    if screen.json:
        screen.document(_as_json(result))
    else:
        _show(screen, result)
    raise typer.Exit(CODES[result.kind])


def _read_checkpoint(name: str) -> str:
    raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    return raw.decode("utf-8", errors="replace")


@contextmanager
def _progress_bar(*, shown: bool) -> Iterator[Progress | None]:
    """A bar on standard error while someone watches."""
    if not shown or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("verifying")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _show(screen: Screen, result: VerifyResult) -> None:
    import base64

    screen.line(f"{result.kind.replace('_', ', ').upper()}: {result.detail}", _STYLES.get(result.kind, "bold red"))
    fields = {
        "entries": str(result.size),
        "root": base64.b64encode(result.root).decode("ascii"),
        "signed": f"{result.signed_size} entries, by the newest checkpoint in the ledger",
        "anchored": "no checkpoint from outside was given"
        if result.anchored_size is None
        else f"{result.anchored_size} entries, by the checkpoint from outside",
    }
    if result.first_bad_index is not None:
        fields["first bad entry"] = str(result.first_bad_index)
    if result.suspect is not None and result.suspect[0] != result.suspect[1]:
        fields["suspect entries"] = f"{result.suspect[0]} to {result.suspect[1]}"
    if result.bad_checkpoint is not None:
        fields["bad checkpoint"] = f"of size {result.bad_checkpoint}"
    if result.missing_payloads:
        fields["missing payloads"] = str(result.missing_payloads)
    screen.fields(fields)
    if result.kind == "verified_unanchored":
        screen.line("A ledger that was rewritten as a whole looks like this too; give `--checkpoint` to exclude it.")


def _as_json(result: VerifyResult) -> Json:
    return {
        "result": result.kind,
        "detail": result.detail,
        "size": result.size,
        "root": result.root.hex(),
        "signed_size": result.signed_size,
        "anchored_size": result.anchored_size,
        "first_bad_index": result.first_bad_index,
        "suspect": None if result.suspect is None else [*result.suspect],
        "bad_checkpoint": result.bad_checkpoint,
        "missing_payloads": result.missing_payloads,
    }
