"""`authz-sidecar audit`: read the ledger from its directory, whether or not the sidecar runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from authz_sidecar.cli.exit_code import ExitCode
from authz_sidecar.cli.failure import CommandFailed, Unsafe, Unusable
from authz_sidecar.cli.screen import OutputFormat, OutputOption, Screen
from authz_sidecar.cli.settings import DEFAULT_CONFIG, ConfigOption, load_config

if TYPE_CHECKING:
    from authz_sidecar.ledger.reader import LedgerReader, StoredEntry
    from authz_sidecar.strictjson import Json

_POLL_SECONDS = 0.3

app = typer.Typer(no_args_is_help=True, help="Read and verify the ledger, also while the sidecar is down.")

LedgerOption = Annotated[
    Path | None, typer.Option("--ledger", metavar="DIR", help="The ledger's directory; else the configuration's.")
]


@contextmanager
def opened_ledger(ledger: Path | None, config: Path) -> Iterator[LedgerReader]:
    """The ledger of a command, read-only. Read and interpret its entries within the block.

    Raises OperatorError, IntegrityFailure or DocumentError, and Unsafe for an entry that is not what was written.
    """
    import sqlite3

    from authz_sidecar.ledger.reader import LedgerReader

    directory = ledger or load_config(config, check_paths=False).ledger.directory
    with LedgerReader.open(directory) as reader:
        try:
            yield reader
        except (ValueError, LookupError, TypeError, sqlite3.DatabaseError) as error:
            # Only well-formed records are ever written, so one that cannot be understood was altered.
            raise Unsafe(
                f"an entry of the ledger in `{directory}` is not what was written ({type(error).__name__}); "
                "`authz-sidecar audit verify` says which, keep the directory as evidence"
            ) from error


@app.command()
def timeline(
    task: Annotated[str, typer.Option("--task", metavar="ID", help="The task.")],
    *,
    ledger: LedgerOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Show everything that happened in a task, and which permitted calls never had their outcome reported."""
    from authz_sidecar.audit.timeline import timeline as timeline_of
    from authz_sidecar.cli.record_view import COLUMNS, entry_json, row_of

    with opened_ledger(ledger, config) as reader:
        found = timeline_of(reader, task)
        entries = [event.entry for event in found.events]
        rows = [row_of(entry).cells() for entry in entries]
        records: list[Json] = [entry_json(entry) for entry in entries]
        document = reader.load_task(task)
    if not entries:
        raise CommandFailed(f"no record of task `{task}` in this ledger", ExitCode.CHECK_FAILED)
    screen = Screen(output)
    if screen.json:
        screen.document(
            {
                "task": document,
                "records": records,
                "missing_outcomes": [*found.missing_outcomes],
                "receipts": [
                    {
                        "decision": one.decision_id,
                        "receipt": one.receipt_index,
                        "outcome": one.outcome_index,
                        "agrees": one.outcome_index is not None and not one.differences,
                        "differences": [*one.differences],
                    }
                    for one in found.receipts
                ],
            }
        )
        return
    if document is not None:
        screen.fields(_task_fields(document))
    columns = [name for name in COLUMNS if name not in ("agent", "task")]
    kept = [COLUMNS.index(name) for name in columns]
    screen.table(columns, ([row[position] for position in kept] for row in rows))
    for one in found.receipts:
        if one.differences:
            said = f"the tool server's receipt {one.receipt_index} contradicts outcome {one.outcome_index}"
            screen.line(f"{said}: {', '.join(one.differences)}", "bold red")
        elif one.outcome_index is not None:
            screen.line(
                f"the tool server's receipt {one.receipt_index} agrees with outcome {one.outcome_index}", "green"
            )
        else:
            screen.line(
                f"the tool server's receipt {one.receipt_index} stands alone: the agent has not reported", "yellow"
            )
    for decision in found.missing_outcomes:
        screen.line(f"no outcome was reported for decision {decision}", "yellow")


class OutcomeFilter(StrEnum):
    PERMIT = "permit"
    DENY = "deny"
    APPROVAL_REQUIRED = "approval_required"


@app.command()
def query(
    agent: Annotated[str, typer.Option("--agent", metavar="SPIFFE-ID", help="Acting workload.")] = "",
    *,
    task: Annotated[str, typer.Option("--task", metavar="ID", help="The task.")] = "",
    tool: Annotated[str, typer.Option("--tool", metavar="SERVER/NAME", help="The tool.")] = "",
    resource: Annotated[str, typer.Option("--resource", metavar="ID", help="The exact resource.")] = "",
    outcome: Annotated[
        OutcomeFilter | None, typer.Option("--outcome", metavar="OUTCOME", help="permit, deny or approval_required.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="CODE", help="Reason code of a decision.")] = "",
    jti: Annotated[str, typer.Option("--jti", metavar="ID", help="The token that a decision granted.")] = "",
    type_: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="Type of record; may be repeated.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="From this time on, or 15m, 2h, 7d ago.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before this time.")] = None,
    after: Annotated[int | None, typer.Option("--after", metavar="INDEX", min=0, help="Behind this entry.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, help="At most so many; 0 for all.")] = 100,
    ledger: LedgerOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """List the records that match all conditions, oldest first; as JSON, one record a line."""
    from authz_sidecar.cli.moment import parse_moment
    from authz_sidecar.clock import system_now
    from authz_sidecar.ledger.filters import QueryFilter

    now = system_now()
    wanted = QueryFilter(
        types=_known_types(type_ or ()),
        agent=_workload(agent),
        task_id=task,
        tool=tool,
        resource=resource,
        outcome=outcome.value if outcome is not None else "",
        reason_code=reason,
        jti=jti,
        since=parse_moment("--since", since, now),
        until=parse_moment("--until", until, now),
        after_index=after,
        limit=limit,
    )
    with opened_ledger(ledger, config) as reader:
        _list(Screen(output), reader.query(wanted), limit=limit)


@app.command()
def tail(
    number: Annotated[
        int, typer.Option("--lines", "-n", metavar="N", min=0, help="Start with so many of the newest.")
    ] = 20,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as records arrive, until interrupted.")] = False,
    ledger: LedgerOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Show the newest records, oldest first; as JSON, one record a line."""
    import time

    from authz_sidecar.audit.tail import follow as entries_of

    def pause() -> bool:
        if follow:
            time.sleep(_POLL_SECONDS)
        return follow

    with opened_ledger(ledger, config) as reader:
        start = max(0, reader.size - number)
        _stream(Screen(output), entries_of(reader, start=start, pause=pause))


@app.command()
def show(
    record: Annotated[str, typer.Argument(metavar="INDEX|DECISION", help="Index of a record, or id of a decision.")],
    *,
    ledger: LedgerOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Show one record in full, with the payload that it commits to."""
    from authz_sidecar.cli.record_view import entry_json, flattened

    with opened_ledger(ledger, config) as reader:
        entry = _find(reader, record)
        found = entry_json(entry, payload=True) if entry is not None else None
    if found is None:
        raise CommandFailed(f"no record `{record[:128]}` in this ledger", ExitCode.CHECK_FAILED)
    screen = Screen(output)
    if screen.json:
        screen.document(found)
    else:
        screen.fields(flattened(found))


@app.command()
def checkpoint(
    ledger: LedgerOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    output: OutputOption = OutputFormat.HUMAN,
) -> None:
    """Print the newest signed checkpoint. Kept where the sidecar's operators cannot change it, it anchors `verify`."""
    with opened_ledger(ledger, config) as reader:
        note, size, origin = reader.latest_checkpoint(), reader.size, reader.origin
    screen = Screen(output)
    if screen.json:
        screen.document({"origin": origin, "note": note, "entries": size})
        return
    for line in note.splitlines():
        screen.line(line)


def _known_types(types: Sequence[str]) -> tuple[str, ...]:
    """A misspelt type would match nothing, which looks like nothing happened. Raises Unusable."""
    from authz_sidecar.documents import nearest
    from authz_sidecar.ledger.records import RECORD_TYPES

    for name in types:
        if name not in RECORD_TYPES:
            hint = nearest(name, list(RECORD_TYPES)) or f"; known are {', '.join(RECORD_TYPES)}"
            raise Unusable(f"`--type {name[:64]}`: no such type of record{hint}")
    return tuple(types)


def _workload(spiffe_id: str) -> str:
    from authz_sidecar.identity.spiffe_id import MalformedSpiffeId, SpiffeId

    try:
        return str(SpiffeId.parse_workload(spiffe_id)) if spiffe_id else ""
    except MalformedSpiffeId as error:
        raise Unusable(f"`--agent`: {error}") from None


def _find(reader: LedgerReader, record: str) -> StoredEntry | None:
    if record.isascii() and record.isdigit() and len(record) <= 18:
        return reader.entry(int(record))
    return reader.decision(record)


def _list(screen: Screen, entries: Iterator[StoredEntry], *, limit: int) -> None:
    from authz_sidecar.cli.record_view import COLUMNS, row_of

    if screen.json:
        _stream(screen, entries)
        return
    rows = [row_of(entry) for entry in entries]
    screen.table(COLUMNS, (row.cells() for row in rows))
    if limit and len(rows) == limit:
        screen.line(f"stopped after {limit} records; go on with `--after {rows[-1].index}`", "dim")


def _stream(screen: Screen, entries: Iterator[StoredEntry]) -> None:
    from authz_sidecar.cli.record_view import WIDTHS, entry_json, row_of

    for entry in entries:
        if screen.json:
            screen.json_line(entry_json(entry))
        else:
            screen.row(row_of(entry).cells(), WIDTHS)


def _task_fields(document: Mapping[str, Json]) -> dict[str, str]:
    """A task document as fields: who and why before what and when, whatever the order in the ledger."""
    from authz_sidecar.cli.record_view import flattened

    first = ("id", "state", "agent", "purpose", "initiator")
    ordered = {name: document[name] for name in (*first, *document) if name in document}
    return {name: value for name, value in flattened(ordered).items() if value != "null"}
