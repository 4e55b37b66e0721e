"""`authz-sidecar doctor`: what would keep the sidecar from starting, or from being safe, and what to do about it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import typer

from authz_sidecar.cli.exit_code import ExitCode
from authz_sidecar.cli.screen import OutputFormat, OutputOption, Screen
from authz_sidecar.cli.settings import DEFAULT_CONFIG, ConfigOption, SetOption, load_config

if TYPE_CHECKING:
    from authz_sidecar.cli.diagnosis import Finding

_STYLES = {"ok": "green", "note": "yellow", "failed": "red", "unsafe": "bold red"}


def doctor(
    config: ConfigOption = DEFAULT_CONFIG,
    set_: SetOption = None,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Check configuration, identity, keys, policies, ledger, addresses and clock; change nothing.

    Exits with 0 when nothing stands in the way, 1 when something failed, 4 when something is unsafe.
    """
    from authz_sidecar.cli.diagnosis import Finding, diagnose, permissions
    from authz_sidecar.clock import system_now
    from authz_sidecar.documents import DocumentError

    findings: list[Finding] = []
    loaded = None
    try:
        loaded = load_config(config, set_)
        findings.append(Finding("configuration", "ok", str(config)))
    except DocumentError as error:
        findings += [Finding.from_message("configuration", "failed", str(problem)) for problem in error.problems]
        # When only files are missing, the rest can still be looked at.
        with suppress(DocumentError):
            loaded = load_config(config, set_, check_paths=False)
    if loaded is not None:
        findings += [*permissions(config), *diagnose(loaded, system_now())]
    _show(Screen(output), findings)
    found = {finding.status for finding in findings}
    raise typer.Exit(
        ExitCode.UNSAFE if "unsafe" in found else ExitCode.CHECK_FAILED if "failed" in found else ExitCode.OK
    )


def _show(screen: Screen, findings: list[Finding]) -> None:
    if screen.json:
        screen.document(
            [
                {"check": each.check, "status": each.status, "detail": each.detail, "remedy": each.remedy}
                for each in findings
            ]
        )
        return
    screen.table(
        ("check", "status", "detail", "remedy"),
        ((each.check, (each.status, _STYLES[each.status]), each.detail, each.remedy) for each in findings),
    )
