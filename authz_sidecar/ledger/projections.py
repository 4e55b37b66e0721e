"""State derived from the log: pure functions of one record, and the tables that add their results up.

INVARIANT: a projection is a function of the entries alone. It is written in the transaction of its entry, never read to
decide what to write, and can be thrown away and rebuilt; `verify` compares the rebuilt tables with the stored ones.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

import orjson

from authz_sidecar.clock import format_time, parse_time
from authz_sidecar.ledger.canonical import canonical
from authz_sidecar.revoked import HORIZON_SECONDS, Kind
from authz_sidecar.strictjson import Json

SCHEMA = """
CREATE TABLE record_index (
    idx INTEGER PRIMARY KEY, type TEXT NOT NULL, time TEXT NOT NULL, agent TEXT, task_id TEXT, decision_id TEXT,
    tool TEXT, resource TEXT, outcome TEXT, reason_code TEXT, jti TEXT, request_kind TEXT, request_id TEXT
) STRICT;
CREATE INDEX record_task ON record_index (task_id) WHERE task_id IS NOT NULL;
CREATE INDEX record_decision ON record_index (decision_id) WHERE decision_id IS NOT NULL;
CREATE INDEX record_jti ON record_index (jti) WHERE jti IS NOT NULL;
CREATE INDEX record_request ON record_index (request_id, agent) WHERE request_id IS NOT NULL;
CREATE TABLE task (
    task_id TEXT PRIMARY KEY, idx INTEGER NOT NULL, state TEXT NOT NULL, epoch INTEGER NOT NULL, ended_at TEXT,
    held_by TEXT, first_idx INTEGER NOT NULL, agent TEXT, parent_id TEXT, expires_at TEXT, document BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX task_first ON task (first_idx);
CREATE INDEX task_agent ON task (agent, first_idx);
CREATE INDEX task_parent ON task (parent_id, first_idx) WHERE parent_id IS NOT NULL;
CREATE INDEX task_open ON task (expires_at) WHERE state IN ('active', 'suspended');
CREATE TABLE session (
    task_id TEXT PRIMARY KEY, idx INTEGER NOT NULL, calls INTEGER NOT NULL, max_read INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE session_tool (
    task_id TEXT, tool TEXT, calls INTEGER NOT NULL, PRIMARY KEY (task_id, tool)
) STRICT, WITHOUT ROWID;
CREATE TABLE policy (sha256 TEXT PRIMARY KEY, idx INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE revocation (
    sequence INTEGER PRIMARY KEY, idx INTEGER NOT NULL, kind TEXT NOT NULL, target TEXT NOT NULL, expires_at TEXT,
    task_epoch INTEGER NOT NULL
) STRICT;
CREATE INDEX revocation_target ON revocation (target, kind);
CREATE INDEX revocation_end ON revocation (expires_at);
CREATE TABLE standing (idx INTEGER PRIMARY KEY, agent TEXT NOT NULL, state TEXT NOT NULL) STRICT;
CREATE INDEX standing_agent ON standing (agent);
CREATE TABLE owed (
    decision_id TEXT PRIMARY KEY, idx INTEGER NOT NULL, token_expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX owed_end ON owed (token_expires_at);
"""

# The tables that are compared as a whole after a rebuild; `record_index` is compared row by row.
STATE_TABLES: Mapping[str, str] = MappingProxyType(
    {
        "task": "task_id",
        "session": "task_id",
        "session_tool": "task_id, tool",
        "policy": "sha256",
        "counter": "name",
        "revocation": "sequence",
        "standing": "idx",
        "owed": "decision_id",
    }
)

REVOCATION_EPOCH = "revocation_epoch"

# What `task_document` takes.
TASK_STATE = "document, state, epoch, ended_at, held_by"

# Types that answer one kind of request: a task that is asked for. Every other type is its own kind.
_REQUEST_KINDS: Mapping[str, str] = MappingProxyType(
    {"task_started": "start_task", "task_delegated": "start_task", "task_refused": "start_task"}
)
_TASK_BEGINNINGS = frozenset({"task_started", "task_delegated"})
_TASK_ENDS = frozenset({"task_completed", "task_cancelled", "task_suspended", "task_expired"})
_TASK_CHANGES = _TASK_BEGINNINGS | _TASK_ENDS | {"task_resumed"}
_STANDING: Mapping[str, str] = MappingProxyType({"agent_suspended": "suspended", "agent_resumed": "working"})
_KINDS: Mapping[str, Kind] = MappingProxyType({"jti": "jti", "task_id": "task_id", "agent": "agent", "kid": "kid"})

# What ends the debt of an outcome. Also in the trigger of the live database, see `schema`.
SETTLING = ("outcome", "outcome_missing", "grant_void")

_NOTHING: Mapping[str, Json] = MappingProxyType({})

IndexRow = tuple[str | None, ...]

INDEX_COLUMNS = (
    "type", "time", "agent", "task_id", "decision_id", "tool", "resource", "outcome", "reason_code", "jti",
    "request_kind", "request_id",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task's state after a record. From `agent` on None for a change; `document` is the task as it began."""

    task_id: str
    state: str
    epoch: int
    ended_at: str | None
    held_by: str | None
    agent: str | None
    parent_id: str | None
    expires_at: str | None
    document: bytes | None


@dataclass(frozen=True, slots=True)
class Call:
    """One permitted call. `read_level` is the data class level it read; 0 when it read nothing."""

    task_id: str
    tool: str
    read_level: int


@dataclass(frozen=True, slots=True)
class RevocationRow:
    """What a record revokes; its number is added when it is known. `expires_at` as in records, None for never."""

    kind: Kind
    target: str
    expires_at: str | None
    task_epoch: int


@dataclass(frozen=True, slots=True)
class Derived:
    """Everything the projections take from one record; the index is added when it is known.

    `standing` is an agent and its state; `owed_from` when the token of a permit ends (Unix time): it owes an outcome.
    """

    row: IndexRow
    task: TaskRow | None
    call: Call | None
    policy: str | None
    revocation: RevocationRow | None
    standing: tuple[str, str] | None
    owed_from: int | None

    @property
    def revokes(self) -> bool:
        """Whether the record raises the revocation epoch."""
        return self.revocation is not None


def derive(record: Mapping[str, Json]) -> Derived:
    """The projections' share of one record that `check_record` accepts. Pure."""
    kind = str(record["type"])
    return Derived(
        row=_index_row(kind, record),
        task=_task_row(kind, record) if kind in _TASK_CHANGES else None,
        call=_call(record) if kind == "decision" and record["outcome"] == "permit" else None,
        policy=_text(_part(record, "policy").get("sha256")) if kind == "bundle_activated" else None,
        revocation=_revocation(kind, record),
        standing=(str(_part(record, "agent").get("id")), _STANDING[kind]) if kind in _STANDING else None,
        owed_from=_owed_from(record) if kind == "decision" and record["outcome"] == "permit" else None,
    )


def _index_row(kind: str, record: Mapping[str, Json]) -> IndexRow:
    tool, request = _part(record, "tool"), _part(record, "request")
    decision_id = record.get("id") if kind == "decision" else _part(record, "decision").get("id")
    request_id = _text(request.get("id"))
    return (
        kind,
        _text(record.get("time")),
        _text(_part(record, "actor").get("spiffe_id")),
        _text(_part(record, "task").get("id")),
        _text(decision_id),
        f"{tool['server']}/{tool.get('name')}" if "server" in tool else None,
        _text(_part(record, "resource").get("id")),
        _text(record.get("outcome")),
        _text(record.get("reason_code")),
        _text(_part(record, "token").get("jti")),
        _REQUEST_KINDS.get(kind, kind) if request_id is not None else None,
        request_id,
    )


def _task_row(kind: str, record: Mapping[str, Json]) -> TaskRow:
    begins, task = kind in _TASK_BEGINNINGS, _part(record, "task")
    return TaskRow(
        task_id=str(task.get("id")),
        state=str(task.get("state")),
        epoch=_number(task.get("epoch")),
        ended_at=_text(task.get("ended_at")),
        held_by=_text(task.get("held_by")),
        agent=_text(task.get("agent")) if begins else None,
        parent_id=_text(task.get("parent_id")) if begins else None,
        expires_at=_text(task.get("expires_at")) if begins else None,
        document=canonical(record["task"]) if begins else None,
    )


def _call(record: Mapping[str, Json]) -> Call:
    tool = _part(record, "tool")
    level = _part(record, "resource").get("level")
    return Call(
        task_id=str(_part(record, "task").get("id")),
        tool=f"{tool.get('server')}/{tool.get('name')}",
        read_level=_number(level) if tool.get("permission") == "read" else 0,
    )


def _revocation(kind: str, record: Mapping[str, Json]) -> RevocationRow | None:
    """Tokens granted before the record die with it: those of a task that ended, of an agent that was stopped, …"""
    if kind in _TASK_ENDS:
        task = _part(record, "task")
        return RevocationRow("task_id", str(task.get("id")), _horizon(record), _number(task.get("epoch")))
    if kind == "agent_suspended":
        return RevocationRow("agent", str(_part(record, "agent").get("id")), _horizon(record), 0)
    if kind == "token_revoked":
        told = _part(record, "revocation")
        target = str(told.get("target"))
        return RevocationRow(_KINDS[str(told.get("kind"))], target, _text(told.get("expires_at")), 0)
    return None


def _horizon(record: Mapping[str, Json]) -> str:
    """From when no token granted before the record could be accepted any more."""
    return format_time(parse_time(str(record["time"])) + timedelta(seconds=HORIZON_SECONDS))


def _owed_from(record: Mapping[str, Json]) -> int | None:
    end = _part(record, "token").get("exp")
    return end if isinstance(end, int) else None


def _part(record: Mapping[str, Json], name: str) -> Mapping[str, Json]:
    """A member that is an object; an empty one stands for a member that is missing or null."""
    value = record.get(name)
    return value if isinstance(value, dict) else _NOTHING


def _text(value: Json) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Json) -> int:
    return value if isinstance(value, int) else 0


_INSERT_TASK = """
INSERT INTO task (task_id, idx, state, epoch, ended_at, held_by, first_idx, agent, parent_id, expires_at, document)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (task_id) DO UPDATE SET idx = excluded.idx, state = excluded.state, epoch = excluded.epoch,
    ended_at = excluded.ended_at, held_by = excluded.held_by, agent = coalesce(agent, excluded.agent),
    parent_id = coalesce(parent_id, excluded.parent_id), expires_at = coalesce(expires_at, excluded.expires_at),
    document = coalesce(document, excluded.document)
"""
_ADD_CALLS = """
INSERT INTO session (task_id, idx, calls, max_read) VALUES (?, ?, ?, ?)
ON CONFLICT (task_id) DO UPDATE SET idx = excluded.idx, calls = calls + excluded.calls,
    max_read = max(max_read, excluded.max_read)
"""
_ADD_TOOL_CALLS = """
INSERT INTO session_tool (task_id, tool, calls) VALUES (?, ?, ?)
ON CONFLICT (task_id, tool) DO UPDATE SET calls = calls + excluded.calls
"""
_ADD_POLICY = "INSERT INTO policy (sha256, idx) VALUES (?, ?) ON CONFLICT (sha256) DO UPDATE SET idx = excluded.idx"
_ADD_COUNT = """
INSERT INTO counter (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value
"""
# Its number is the count that it just raised.
_ADD_REVOCATION = """
INSERT INTO revocation (sequence, idx, kind, target, expires_at, task_epoch)
    SELECT value, ?, ?, ?, ?, ? FROM counter WHERE name = ?
"""


def apply_rare(connection: sqlite3.Connection, index: int, derived: Derived) -> None:
    """Add one record to the tables that few records touch, inside the caller's transaction."""
    task = derived.task
    if task is not None:
        changed = (task.task_id, index, task.state, task.epoch, task.ended_at, task.held_by)
        began = (index, task.agent, task.parent_id, task.expires_at, task.document)
        connection.execute(_INSERT_TASK, (*changed, *began))
    if derived.policy is not None:
        connection.execute(_ADD_POLICY, (derived.policy, index))
    revocation = derived.revocation
    if revocation is not None:
        connection.execute(_ADD_COUNT, (REVOCATION_EPOCH, 1))
        connection.execute(
            _ADD_REVOCATION,
            (index, revocation.kind, revocation.target, revocation.expires_at, revocation.task_epoch, REVOCATION_EPOCH),
        )
    if derived.standing is not None:
        connection.execute("INSERT INTO standing (idx, agent, state) VALUES (?, ?, ?)", (index, *derived.standing))


def apply_state(connection: sqlite3.Connection, first_index: int, derived: Sequence[Derived]) -> None:
    """Add the records `first_index` … to all state tables of a rebuild.

    Permitted calls are added up, and outcomes owed, here and not by the trigger of the live database, so that a rebuild
    checks the trigger.
    """
    calls: dict[str, list[int]] = {}
    tool_calls: dict[tuple[str, str], int] = {}
    for index, one in enumerate(derived, first_index):
        apply_rare(connection, index, one)
        _apply_owed(connection, index, one)
        call = one.call
        if call is not None:
            sums = calls.setdefault(call.task_id, [0, 0, 0])
            sums[0] = index
            sums[1] += 1
            sums[2] = max(sums[2], call.read_level)
            key = (call.task_id, call.tool)
            tool_calls[key] = tool_calls.get(key, 0) + 1
    connection.executemany(_ADD_CALLS, [(task_id, *sums) for task_id, sums in calls.items()])
    connection.executemany(_ADD_TOOL_CALLS, [(*key, count) for key, count in tool_calls.items()])


def _apply_owed(connection: sqlite3.Connection, index: int, derived: Derived) -> None:
    decision_id = derived.row[INDEX_COLUMNS.index("decision_id")]
    if derived.owed_from is not None:
        connection.execute("INSERT OR IGNORE INTO owed VALUES (?, ?, ?)", (decision_id, index, derived.owed_from))
    if derived.row[0] in SETTLING:
        connection.execute("DELETE FROM owed WHERE decision_id = ?", (decision_id,))


def state_differences(stored: sqlite3.Connection, rebuilt: sqlite3.Connection) -> Iterator[tuple[int | None, str]]:
    """Rows of the state tables that are not what the log says, as (index of an entry or None, what differs)."""
    for table, key in STATE_TABLES.items():
        query = f"SELECT * FROM {table} ORDER BY {key}"  # noqa: S608 - names come from the table above
        width = key.count(",") + 1
        yield from _differences(table, width, stored.execute(query), rebuilt.execute(query))


def _differences(
    table: str, width: int, stored: Iterable[tuple[object, ...]], rebuilt: Iterable[tuple[object, ...]]
) -> Iterator[tuple[int | None, str]]:
    """Merge two streams ordered by key; the first difference of a table is enough."""
    right = iter(rebuilt)
    for left in stored:
        other = next(right, None)
        if left == other:
            continue
        if other is not None and _key(other, width) < _key(left, width):
            yield _entry_of(table, width, other, other), f"`{table}` lacks the row of `{_name(other, width)}`"
        else:
            detail = f"`{table}` row of `{_name(left, width)}` is not what the entries say"
            yield _entry_of(table, width, left, other), detail
        return
    other = next(right, None)
    if other is not None:
        yield _entry_of(table, width, other, other), f"`{table}` lacks the row of `{_name(other, width)}`"


def _key(row: tuple[object, ...], width: int) -> tuple[str, ...]:
    return tuple(f"{value:020}" if isinstance(value, int) else str(value) for value in row[:width])


def _name(row: tuple[object, ...], width: int) -> str:
    return "/".join(map(str, row[:width]))


def _entry_of(table: str, width: int, row: tuple[object, ...], rebuilt: tuple[object, ...] | None) -> int | None:
    """The entry that the log says made the row. The stored row's own word is not taken for it."""
    if (
        table not in ("task", "session", "policy", "revocation", "owed")
        or rebuilt is None
        or rebuilt[:width] != row[:width]
    ):
        return None
    index = rebuilt[width]
    return index if isinstance(index, int) else None


def task_document(row: tuple[object, ...]) -> dict[str, Json] | None:
    """The task as it stands, from the columns `TASK_STATE`; None when it was never started."""
    document, state, epoch, ended_at, held_by = row
    if not isinstance(document, bytes):
        return None
    task: dict[str, Json] = orjson.loads(document)
    task.update(
        state=str(state),
        epoch=int(str(epoch)),
        ended_at=str(ended_at) if ended_at is not None else None,
        held_by=str(held_by) if held_by is not None else None,
    )
    return task
