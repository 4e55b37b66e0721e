"""Everything that happened in one task, in the order of the log; each decision tied to its token and its outcome."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from authz_sidecar.clock import parse_time
from authz_sidecar.ledger.filters import QueryFilter
from authz_sidecar.ledger.reads import LedgerReads, StoredEntry
from authz_sidecar.strictjson import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One record of the task. Members that do not apply to its type are empty.

    Attributes:
        entry: the record itself.
        type, time: of the record.
        actor: SPIFFE ID of who acted.
        tool: "server/name".
        resource: resource id.
        result: outcome of a decision, status of an outcome, state of a task.
        reason: reason code of a decision.
        decision_id: the decision that this is, or is about.
        jti: the token that a permit granted.
        outcome_index: for a decision, the first record that reports what came of it.
        void: for a permit, a later record says that its token was never released.
    """

    entry: StoredEntry
    type: str
    time: datetime
    actor: str
    tool: str
    resource: str
    result: str
    reason: str
    decision_id: str
    jti: str
    outcome_index: int | None
    void: bool

    @property
    def index(self) -> int:
        return self.entry.index


@dataclass(frozen=True, slots=True)
class Timeline:
    """A task's events.

    Attributes:
        events: oldest first; empty when the log has no record of the task.
        missing_outcomes: decision ids of permits that were neither reported on nor voided. The report of a call that
            still runs is missing too.
    """

    events: tuple[Event, ...]
    missing_outcomes: tuple[str, ...]


def timeline(ledger: LedgerReads, task_id: str) -> Timeline:
    """Read a task's records. Trusts the stored entries; `verify` says whether they can be trusted."""
    # An empty filter does not restrict.
    entries = list(ledger.query(QueryFilter(task_id=task_id))) if task_id else []
    reported = _first_by_decision(entries, "outcome")
    voided = _first_by_decision(entries, "grant_void")
    events = tuple(_event(entry, reported, voided) for entry in entries)
    missing = tuple(
        event.decision_id
        for event in events
        if event.type == "decision" and event.result == "permit" and event.outcome_index is None and not event.void
    )
    return Timeline(events, missing)


def _first_by_decision(entries: Iterable[StoredEntry], record_type: str) -> Mapping[str, int]:
    """Index of the first record of a type for each decision that it is about."""
    found: dict[str, int] = {}
    for entry in entries:
        if entry.record["type"] == record_type:
            found.setdefault(_text(entry.record, "decision", "id"), entry.index)
    return found


def _event(entry: StoredEntry, reported: Mapping[str, int], voided: Mapping[str, int]) -> Event:
    record = entry.record
    kind = _text(record, "type")
    decides = kind == "decision"
    decision_id = _text(record, "id") if decides else _text(record, "decision", "id")
    server, name = _text(record, "tool", "server"), _text(record, "tool", "name")
    return Event(
        entry=entry,
        type=kind,
        time=parse_time(_text(record, "time")),
        actor=_text(record, "actor", "spiffe_id"),
        tool=f"{server}/{name}" if server else "",
        resource=_text(record, "resource", "id"),
        result=_text(record, "outcome") or _text(record, "status") or _text(record, "task", "state"),
        reason=_text(record, "reason_code"),
        decision_id=decision_id,
        jti=_text(record, "token", "jti"),
        outcome_index=reported.get(decision_id) if decides else None,
        void=decides and decision_id in voided,
    )


def _text(record: Mapping[str, Json], *path: str) -> str:
    value: Json = dict(record)
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""
