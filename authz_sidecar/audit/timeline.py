"""Everything that happened in one task, in the order of the log; each decision tied to its token and its outcome."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from authz_sidecar.clock import parse_time
from authz_sidecar.ledger.filters import QueryFilter
from authz_sidecar.ledger.reads import LedgerReads, StoredEntry
from authz_sidecar.strictjson import Json

_ENDS = frozenset({"task_completed", "task_cancelled", "task_expired"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One record of the task. Members that do not apply to its type are empty.

    Attributes:
        entry: the record itself.
        type, time: of the record.
        actor: SPIFFE ID of who acted.
        tool: "server/name".
        resource: resource id.
        result: outcome of a decision, status of an outcome or receipt, state of a task or an agent.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptComparison:
    """A tool server's receipt beside the agent's outcome.

    Attributes:
        receipt_index: the newest receipt for the decision.
        outcome_index: the newest outcome; None while the agent has not reported.
        differences: members in which the two differ, of `status`, `result_sha256` and `arguments_sha256`; a digest that
            only one of them gives is no difference. Empty when they agree, and when there is no outcome.
    """

    decision_id: str
    receipt_index: int
    outcome_index: int | None
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """A task's events.

    Attributes:
        events: oldest first; empty when the log has no record of the task. Revocations of the task's agent or of a key,
            and suspensions of the agent or of all, are among them while the task had not ended.
        missing_outcomes: decision ids of permits that were neither reported on nor voided. The report of a call that
            still runs is missing too.
        receipts: for the calls that a tool server gave a receipt for, how it fits the agent's outcome.
    """

    events: tuple[Event, ...]
    missing_outcomes: tuple[str, ...]
    receipts: tuple[ReceiptComparison, ...] = ()


def timeline(ledger: LedgerReads, task_id: str) -> Timeline:
    """Read a task's records. Trusts the stored entries; `verify` says whether they can be trusted."""
    # An empty filter does not restrict.
    entries = list(ledger.query(QueryFilter(task_id=task_id))) if task_id else []
    entries = _with_stops(ledger, entries)
    reported = _first_by_decision(entries, "outcome")
    voided = _first_by_decision(entries, "grant_void")
    events = tuple(_event(entry, reported, voided) for entry in entries)
    missing = tuple(
        event.decision_id
        for event in events
        if event.type == "decision" and event.result == "permit" and event.outcome_index is None and not event.void
    )
    return Timeline(events, missing, tuple(_comparisons(entries)))


def _with_stops(ledger: LedgerReads, entries: list[StoredEntry]) -> list[StoredEntry]:
    """The entries, and between them what stopped the task's agent without naming the task."""
    start = next((entry for entry in entries if entry.record["type"] == "task_started"), None)
    if start is None:
        return entries
    end = next((entry.index for entry in entries if entry.record["type"] in _ENDS), ledger.size)
    stops = ledger.stops_of(_text(start.record, "task", "agent"), start.index, end)
    found = {entry.index: entry for entry in entries}
    found.update((index, entry) for index in stops if (entry := ledger.entry(index)) is not None)
    return [found[index] for index in sorted(found)]


def _comparisons(entries: Iterable[StoredEntry]) -> Iterator[ReceiptComparison]:
    receipts: dict[str, StoredEntry] = {}
    outcomes: dict[str, StoredEntry] = {}
    order: dict[str, None] = {}
    for entry in entries:
        kind = entry.record["type"]
        if kind == "decision":
            order[_text(entry.record, "id")] = None
        elif kind in ("receipt", "outcome"):
            (receipts if kind == "receipt" else outcomes)[_text(entry.record, "decision", "id")] = entry
    for decision_id in order:
        receipt, outcome = receipts.get(decision_id), outcomes.get(decision_id)
        if receipt is not None:
            yield ReceiptComparison(
                decision_id=decision_id,
                receipt_index=receipt.index,
                outcome_index=outcome.index if outcome is not None else None,
                differences=_differences(receipt.record, outcome.record) if outcome is not None else (),
            )


def _differences(receipt: Mapping[str, Json], outcome: Mapping[str, Json]) -> tuple[str, ...]:
    status = ("status",) if receipt.get("status") != outcome.get("status") else ()
    digests = ("result_sha256", "arguments_sha256")
    both = ((name, receipt.get(name), outcome.get(name)) for name in digests)
    return (*status, *(name for name, one, other in both if None not in (one, other) and one != other))


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
        result=_text(record, "outcome")
        or _text(record, "status")
        or _text(record, "task", "state")
        or _text(record, "agent", "state"),
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
