"""Builders for ledger tests: a fixed key, a clock that only moves when told, and records of every shape."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from authz_sidecar.ledger.note import Signer
from authz_sidecar.ledger.records import Record, envelope
from authz_sidecar.ledger.store import Ledger, LedgerOptions
from authz_sidecar.strictjson import Json

ORIGIN = "authz.example/test"
START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
AGENT = "spiffe://example.org/agent/research"
SIGNER = Signer(ORIGIN, bytes(range(32)))

# Tests that look at checkpoints sign when they say so.
QUIET = LedgerOptions(checkpoint_interval=timedelta(hours=1))


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self, start: datetime = START) -> None:
        self.time = start

    def __call__(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> datetime:
        self.time += timedelta(seconds=seconds)
        return self.time


def salts() -> Callable[[], bytes]:
    """Distinct, reproducible salts."""
    counter = itertools.count()
    return lambda: next(counter).to_bytes(16, "big")


def open_ledger(directory: Path, **changes: Any) -> Ledger:
    """A ledger with the fixed key and quiet checkpoints."""
    arguments: dict[str, Any] = {"signer": SIGNER, "now": Clock(), "new_salt": salts(), "options": QUIET}
    return Ledger.open(directory, **arguments | changes)


def task_started(task_id: str, *, at: datetime = START, agent: str = AGENT, request_id: str | None = None) -> Record:
    members: dict[str, Json] = {
        "actor": _actor(agent),
        "task": {
            "id": task_id,
            "agent": agent,
            "purpose": "triage",
            "state": "active",
            "epoch": 1,
            "expires_at": "2026-03-01T13:00:00.000000Z",
            "ended_at": None,
        },
        "outcome": "permit",
        "reason_code": "permitted",
    }
    if request_id is not None:
        members["request"] = {"id": request_id, "sha256": "00" * 32}
    body = envelope("task_started", record_id=f"started-{task_id}", time=at, **members)
    return Record(type="task_started", body=body, payload={"objective": "find the cause"})


def task_changed(task_id: str, change: str, *, at: datetime = START, epoch: int = 1) -> Record:
    """`change`: completed, suspended, resumed, cancelled or expired."""
    state = "active" if change == "resumed" else change
    body = envelope(
        f"task_{change}",
        record_id=f"{change}-{task_id}",
        time=at,
        actor=_actor(AGENT),
        task={"id": task_id, "state": state, "epoch": epoch, "ended_at": None},
    )
    return Record(type=f"task_{change}", body=body)


def decision(
    decision_id: str,
    *,
    task_id: str = "task-1",
    outcome: str = "permit",
    tool: str = "crm/read_contact",
    permission: str = "read",
    level: int = 1,
    at: datetime = START,
    agent: str = AGENT,
    request_id: str | None = None,
    filler: str = "",
) -> Record:
    server, name = tool.split("/")
    token: Json = {"jti": f"jti-{decision_id}", "exp": 1772366520} if outcome == "permit" else None
    body = envelope(
        "decision",
        record_id=decision_id,
        time=at,
        actor=_actor(agent),
        task={"id": task_id, "state": "active", "epoch": 1},
        request={"id": request_id or f"request-{decision_id}", "sha256": "00" * 32},
        tool={"server": server, "name": name, "permission": permission, "risks": []},
        resource={"id": "contact/17", "classification": "internal", "level": level, "owner": "sales"},
        outcome=outcome,
        reason_code="permitted" if outcome == "permit" else "no_permit",
        token=token,
        filler=filler,
    )
    return Record(type="decision", body=body, payload={"evaluated": {"context": {"now": decision_id}}})


def outcome(decision_id: str, index: int, *, at: datetime = START, task_id: str = "task-1") -> Record:
    body = envelope(
        "outcome",
        record_id=f"outcome-{decision_id}",
        time=at,
        actor=_actor(AGENT),
        task={"id": task_id},
        decision={"id": decision_id, "index": index},
        status="succeeded",
    )
    return Record(type="outcome", body=body)


def grant_void(decision_id: str, index: int, *, at: datetime = START, task_id: str = "task-1") -> Record:
    body = envelope(
        "grant_void",
        record_id=f"void-{decision_id}",
        time=at,
        task={"id": task_id},
        decision={"id": decision_id, "index": index},
    )
    return Record(type="grant_void", body=body)


def bundle_activated(digest: str, files: dict[str, Json], *, at: datetime = START) -> Record:
    body = envelope("bundle_activated", record_id=f"bundle-{digest}", time=at, policy={"sha256": digest})
    return Record(type="bundle_activated", body=body, payload={"files": files}, salted=False)


def _actor(agent: str) -> dict[str, Json]:
    return {"spiffe_id": agent, "method": "x509-svid", "credential_sha256": "11" * 32}
