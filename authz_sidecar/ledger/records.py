"""Records: what may be written down, and the exact bytes that are.

A record's body is the leaf of the Merkle tree, so it is never changed or erased. Its payload stands in a side table and
the body commits to it by SHA-256: it can be erased one day, and every proof stays valid. A random salt in the payload
keeps the commitment from confirming a guess about low-entropy content.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from types import MappingProxyType

from authz_sidecar.clock import format_time
from authz_sidecar.ledger.canonical import canonical
from authz_sidecar.strictjson import Json

VERSION = 1
MAX_ENTRY_BYTES = 61_440
MAX_PAYLOAD_BYTES = 16 * 1024 * 1024
MIN_SALT_BYTES = 16

_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z")
_TASK_CHANGE = ("task.id", "task.state", "task.epoch")

# Every type that may be written, with the members that the projections stand on. A new type is a new line.
RECORD_TYPES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sidecar_started": (),
        "sidecar_stopped": (),
        "recovery": ("recovery.epoch",),
        "clock_step": ("clock_step.from", "clock_step.to"),
        "bundle_activated": ("policy.sha256",),
        "bundle_rejected": (),
        "task_started": (*_TASK_CHANGE, "task.agent", "task.expires_at"),
        "task_delegated": (*_TASK_CHANGE, "task.agent", "task.parent_id", "task.expires_at"),
        "task_refused": (),
        "task_completed": _TASK_CHANGE,
        "task_suspended": _TASK_CHANGE,
        "task_resumed": _TASK_CHANGE,
        "task_cancelled": _TASK_CHANGE,
        "task_expired": _TASK_CHANGE,
        "decision": ("task.id", "tool.server", "tool.name", "outcome", "reason_code"),
        "grant_void": ("decision.id", "decision.index"),
        "outcome": ("decision.id", "decision.index", "status"),
        "outcome_missing": ("decision.id", "decision.index"),
        "receipt": ("decision.id", "decision.index", "status"),
        "token_revoked": ("revocation.kind", "revocation.target"),
        "agent_suspended": ("agent.id",),
        "agent_resumed": ("agent.id",),
    }
)

_OUTCOMES = frozenset({"permit", "deny", "approval_required"})


class MalformedRecord(ValueError):
    """The record cannot be written: unknown type, a member missing, or too large. Nothing was stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Something that happened, before it is stored.

    Attributes:
        type: one of `RECORD_TYPES`.
        body: becomes the leaf; `v`, `type`, `id`, `time` and the members of its type. The store adds `payload`, and
            raises `time` to that of the newest record when it is older.
        payload: content that may have to be erased one day; None when there is none.
        salted: False only for content that is public and shared (policy bundles): equal payloads are then stored once.
    """

    type: str
    body: Mapping[str, Json]
    payload: Mapping[str, Json] | None = None
    salted: bool = True


def envelope(record_type: str, *, record_id: str, time: datetime, **members: Json) -> dict[str, Json]:
    """A record body: the common members first, then `members` as given."""
    return {"v": VERSION, "type": record_type, "id": record_id, "time": format_time(time), **members}


def check_record(record: Record) -> None:
    """Refuse what the projections could not digest later. Raises MalformedRecord naming the member."""
    body = record.body
    required = RECORD_TYPES.get(record.type)
    if required is None:
        raise MalformedRecord(f"unknown record type `{record.type[:64]}`; known types are in RECORD_TYPES")
    if body.get("type") != record.type or body.get("v") != VERSION:
        raise MalformedRecord(f"`type` and `v`: expected `{record.type}` and {VERSION} as in the record")
    time, record_id = body.get("time"), body.get("id")
    if not isinstance(time, str) or not _TIME.fullmatch(time):
        raise MalformedRecord("`time`: expected RFC 3339 in UTC with six fractional digits and `Z`")
    if not isinstance(record_id, str) or not record_id:
        raise MalformedRecord("`id`: expected a string that is not empty")
    if "payload" in body:
        raise MalformedRecord("`payload`: the store adds this member; pass the payload beside the body")
    for path in required:
        group, _, name = path.partition(".")
        part = body.get(group)
        if part is None or (name and (not isinstance(part, dict) or part.get(name) is None)):
            raise MalformedRecord(f"`{path}`: a `{record.type}` record needs it")
    if record.type == "decision":
        _check_decision(body)


def _check_decision(body: Mapping[str, Json]) -> None:
    if body["outcome"] not in _OUTCOMES:
        raise MalformedRecord("`outcome`: expected `permit`, `deny` or `approval_required`")
    level = member(body, "resource", "level")
    if body["outcome"] == "permit" and (type(level) is not int or level < 0):
        raise MalformedRecord("`resource.level`: a permit needs the data class level, an integer from 0")


def member(body: Mapping[str, Json], *path: str) -> Json:
    """The value at `path`, or None when any part of it is missing."""
    value: Json = body.get(path[0])
    for name in path[1:]:
        value = value.get(name) if isinstance(value, dict) else None
    return value


@dataclass(frozen=True, slots=True)
class SealedPayload:
    """A payload's canonical bytes and their digest. `shared` payloads are stored once per digest."""

    sha256: bytes
    content: bytes
    shared: bool


def seal_payload(payload: Mapping[str, Json], salt: bytes | None) -> SealedPayload:
    """Canonical bytes of a payload.

    Args:
        payload: the content; must not have a member `salt`.
        salt: at least 16 random bytes, or None for content that is shared.

    Raises:
        NotCanonical: outside the canonical profile.
        MalformedRecord: has a member `salt`, or is larger than 16 MiB.
    """
    if "salt" in payload:
        raise MalformedRecord("`payload.salt`: the store adds this member")
    if salt is not None and len(salt) < MIN_SALT_BYTES:
        raise MalformedRecord(f"the source of salts gave {len(salt)} bytes; expected at least {MIN_SALT_BYTES}")
    content = canonical({**payload, "salt": salt.hex()} if salt is not None else {**payload})
    if len(content) > MAX_PAYLOAD_BYTES:
        raise MalformedRecord(f"the payload has {len(content)} bytes; at most {MAX_PAYLOAD_BYTES} are stored")
    return SealedPayload(sha256(content).digest(), content, shared=salt is None)


def entry_bytes(body: dict[str, Json]) -> bytes:
    """The leaf's bytes. Raises NotCanonical, or MalformedRecord when larger than 60 KiB: never truncated."""
    entry = canonical(body)
    if len(entry) > MAX_ENTRY_BYTES:
        raise MalformedRecord(f"the entry has {len(entry)} bytes; at most {MAX_ENTRY_BYTES} fit a tile")
    return entry
