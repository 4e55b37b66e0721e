"""Ledger records as people read them: one row each, and all of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from authz_sidecar.cli.screen import Cell
from authz_sidecar.strictjson import Json

if TYPE_CHECKING:
    from authz_sidecar.ledger.reader import StoredEntry

COLUMNS = ("index", "time", "type", "agent", "task", "what", "result", "why")
# For records that arrive one by one: what is longer moves its own line, and no other.
WIDTHS = (6, 27, 16, 16, 36, 40, 10, 0)

_STYLES = {
    "permit": "green",
    "deny": "red",
    "approval_required": "yellow",
    "success": "green",
    "failure": "red",
    "missing": "yellow",
    "suspended": "red",
}
# What a revocation covers, in words.
_KINDS = {"jti": "token", "task_id": "tokens of task", "agent": "tokens of", "kid": "key"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One record on one line.

    Attributes:
        agent: SPIFFE ID of the actor.
        what: tool and resource, or what else the record is about.
        result: outcome, status or state.
        why: reason code and the policies that decided.
    """

    index: int
    time: str
    type: str
    agent: str
    task: str
    what: str
    result: str
    why: str

    def cells(self) -> tuple[Cell, ...]:
        """In the order of `COLUMNS`. The trust domain is left out of the agent: its neighbours have the same."""
        path = self.agent.removeprefix("spiffe://").partition("/")[2]
        result: Cell = (self.result, _STYLES.get(self.result, ""))
        return str(self.index), self.time, self.type, path, self.task, self.what, result, self.why


def row_of(entry: StoredEntry) -> Row:
    """The row of an entry. A member of another shape than expected is left empty: the ledger may have been altered.

    Raises ValueError or TypeError when the entry is no record at all.
    """
    record = _record(entry)
    return Row(
        index=entry.index,
        time=_text(record, "time"),
        type=_text(record, "type"),
        agent=_text(record, "actor", "spiffe_id"),
        task=_text(record, "task", "id"),
        what=_what(record),
        result=_result(record),
        why=_why(record),
    )


def entry_json(entry: StoredEntry, *, payload: bool = False) -> dict[str, Json]:
    """An entry as JSON: index, leaf hash in hex, the record, and on request the payload (null when there is none).

    Raises ValueError or TypeError when the entry is no record at all.
    """
    found: dict[str, Json] = {
        "index": entry.index,
        "leaf_hash": entry.leaf_hash.hex(),
        "record": dict(_record(entry)),
    }
    if payload:
        found["payload"] = None if entry.payload_record is None else dict(entry.payload_record)
    return found


def flattened(value: Json, prefix: str = "") -> dict[str, str]:
    """Dotted names and values as text, for a record as a list of fields."""
    if isinstance(value, dict) and value:
        fields: dict[str, str] = {}
        for name, member in value.items():
            fields |= flattened(member, f"{prefix}.{name}" if prefix else name)
        return fields
    return {prefix: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


def _record(entry: StoredEntry) -> Mapping[str, Json]:
    record: object = entry.record
    if not isinstance(record, dict):
        raise TypeError("the entry is not a JSON object")
    return record


def _what(record: Mapping[str, Json]) -> str:
    if _text(record, "tool", "name"):
        tool = f"{_text(record, 'tool', 'server')}/{_text(record, 'tool', 'name')}"
        return f"{tool} {_text(record, 'resource', 'id')}".rstrip()
    if kind := _text(record, "revocation", "kind"):
        return f"{_KINDS.get(kind, kind)} {_text(record, 'revocation', 'target')}"
    if agent := _text(record, "agent", "id"):
        return "every agent" if agent == "*" else f"agent {agent}"
    if decision := _text(record, "decision", "id"):
        return f"decision {decision}"
    if _text(record, "type") in ("bundle_activated", "bundle_rejected"):
        return _text(record, "policy", "sha256")
    return _text(record, "purpose")


def _result(record: Mapping[str, Json]) -> str:
    state = _text(record, "task", "state") or _text(record, "agent", "state")
    return _text(record, "outcome") or _text(record, "status") or state


def _why(record: Mapping[str, Json]) -> str:
    determining, contradictions = record.get("determining"), record.get("contradictions")
    named = determining if isinstance(determining, list) else []
    ids = [_text(policy, "id") for policy in named if isinstance(policy, dict)]
    found = [_text(record, "reason_code"), *([f"({', '.join(ids)})"] if ids else [])]
    if isinstance(contradictions, list) and contradictions:
        found.append(f"contradicts: {', '.join(map(str, contradictions))}")
    return " ".join(part for part in found if part)


def _text(record: Mapping[str, Json], *path: str) -> str:
    value: Json = dict(record)
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else ""
