"""Records of revocations and of agents that were stopped. Reasons are free text and stand in the payload."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from authz_sidecar.clock import format_time
from authz_sidecar.engine.recall import Recalled
from authz_sidecar.identity.subject import Subject
from authz_sidecar.ledger.records import Record, envelope
from authz_sidecar.revoked import Kind
from authz_sidecar.strictjson import Json
from authz_sidecar.task.standing import Standing


def token_revoked(
    *,
    record_id: str,
    now: datetime,
    subject: Subject,
    kind: Kind,
    target: str,
    expires_at: float | None,
    decision: Recalled | None,
    decision_index: int | None,
    reason: str,
) -> Record:
    """A revocation. For a token that this ledger granted, `decision` ties it to its task."""
    members: dict[str, Json] = {}
    if kind == "task_id":
        members["task"] = {"id": target}
    if kind == "jti":
        members["token"] = {"jti": target}
    if decision is not None:
        members["task"] = {"id": decision.task_id}
        members["decision"] = {"id": decision.decision_id, "index": decision_index}
    end = format_time(datetime.fromtimestamp(expires_at, UTC)) if expires_at is not None else None
    body = envelope(
        "token_revoked",
        record_id=record_id,
        time=now,
        actor=_actor(subject),
        revocation={"kind": kind, "target": target, "expires_at": end},
        **members,
    )
    return Record(type="token_revoked", body=body, payload=_payload(reason))


def agent_changed(*, record_id: str, now: datetime, subject: Subject, agent: str, to: Standing, reason: str) -> Record:
    """`agent_suspended` or `agent_resumed`, by the state after it. `agent` may be `*`, every agent."""
    record_type = "agent_suspended" if to is Standing.SUSPENDED else "agent_resumed"
    body = envelope(
        record_type,
        record_id=record_id,
        time=now,
        actor=_actor(subject),
        agent={"id": agent, "state": to.value},
    )
    return Record(type=record_type, body=body, payload=_payload(reason))


def _actor(subject: Subject) -> dict[str, Json]:
    return {
        "spiffe_id": str(subject.spiffe_id),
        "method": subject.method,
        "credential_sha256": subject.credential_sha256,
    }


def _payload(reason: str) -> Mapping[str, Json] | None:
    return {"reason": reason} if reason else None
