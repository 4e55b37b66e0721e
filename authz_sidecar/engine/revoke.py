"""Revoking tokens: one, a task's or an agent's so far, or everything that a key signs. Record, push, answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

from authz_sidecar.engine import revocation_records
from authz_sidecar.engine.core import Core
from authz_sidecar.engine.recall import Recalled, decision_from_record
from authz_sidecar.errors import InvalidRequest, RecordNotFound, RoleRequired, Violation
from authz_sidecar.identity.spiffe_id import MalformedSpiffeId, SpiffeId
from authz_sidecar.identity.subject import Subject
from authz_sidecar.ledger.store import Position
from authz_sidecar.revoked import HORIZON_SECONDS, LATEST_USE_SECONDS, Kind
from authz_sidecar.verifier import TokenRejected, base64url
from authz_sidecar.verifier.jws import parse_unverified

_IDENTIFIER = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_MAX_REASON = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeCommand:
    """What to revoke, and why."""

    kind: Kind
    target: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeAnswer:
    """Where the revocation was recorded, and the revocation epoch after it."""

    position: Position
    revocation_epoch: int


def revoke_command(form: str | None, value: str, reason: str) -> RevokeCommand:
    """Bound and parse a RevokeToken request; `form` is `token`, `jti`, `task_id`, `agent` or `kid`.

    A token's text is read for its `jti` only. Whether it was ever signed or recorded here is not looked at: whoever may
    revoke it may revoke that identifier. Raises InvalidRequest.
    """
    violations = reason_violations(reason, shortest=0)
    match form:
        case "token":
            value, problem = _jti_of(value)
            kind: Kind = "jti"
        case "jti" | "task_id":
            kind = form
            problem = "" if _IDENTIFIER.fullmatch(value) else "expected 1 to 128 characters of `[A-Za-z0-9._:-]`"
        case "agent":
            kind, problem = "agent", agent_problem(value)
        case "kid":
            kind, problem = "kid", "" if base64url.is_sha256(value) else "expected an RFC 7638 thumbprint"
        case _:
            kind, problem = "jti", "set `token`, `jti`, `task_id`, `agent` or `kid`"
    if problem:
        violations.append(Violation(form or "target", problem))
    if violations:
        raise InvalidRequest(violations)
    return RevokeCommand(kind=kind, target=value, reason=reason)


def agent_problem(text: str) -> str:
    """What is wrong with an agent's SPIFFE ID; empty when nothing is."""
    try:
        SpiffeId.parse_workload(text)
    except MalformedSpiffeId as error:
        return str(error)
    return ""


def reason_violations(reason: str, *, shortest: int) -> list[Violation]:
    """What is wrong with a stated reason."""
    printable = not any(ord(char) < 0x20 and char not in "\n\t" for char in reason)
    if printable and shortest <= len(reason) <= _MAX_REASON:
        return []
    expected = f"expected {shortest} to {_MAX_REASON} characters without control characters"
    return [Violation("reason", f"{expected}, got {len(reason)}")]


def _jti_of(token: str) -> tuple[str, str]:
    """(identifier, what is wrong with the token)."""
    try:
        jti = parse_unverified(token).claims.get("jti")
    except TokenRejected as rejected:
        return "", rejected.message
    if not isinstance(jti, str) or not _IDENTIFIER.fullmatch(jti):
        return "", "`jti`: not an identifier of a token of this issuer"
    return jti, ""


class RevokeToken:
    """Revokes. The revocation counts from the moment its record is accepted; the answer comes when it is durable."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def __call__(self, subject: Subject, command: RevokeCommand, *, any_agent: bool) -> RevokeAnswer:
        """Revoke, once. A token or key that was revoked before gives the first record's position.

        "So far" of a task or an agent is now, so repeating that revokes what was granted in between too. An identifier
        that nobody knows is revoked and answered like any other.

        Args:
            any_agent: whether the caller is an operator; anybody else may revoke single tokens of its own.

        Raises RoleRequired, RecordNotFound, and whatever `Ledger.append` and `Core.wait_durable` raise.
        """
        core = self._core
        stored = core.ledger.jti_entry(command.target) if command.kind == "jti" else None
        decision = decision_from_record(stored.record) if stored is not None else None
        if not any_agent:
            _require_own(subject, command, decision)
        async with core.turns.of(("revoke", command.kind, command.target)) as turn:
            if command.kind in ("jti", "kid"):
                known = core.ledger.revocation_of(command.kind, command.target)
                if known is not None:
                    return self._answer(Position(core.ledger.origin, known.index, known.leaf_hash))
            now = core.moment()
            expires_at = _expires_at(command.kind, decision, now.timestamp())
            record = revocation_records.token_revoked(
                record_id=core.new_id(),
                now=now,
                subject=subject,
                kind=command.kind,
                target=command.target,
                expires_at=expires_at,
                decision=decision,
                decision_index=stored.index if stored is not None else None,
                reason=command.reason,
            )
            appended = core.revocations.append(record, kind=command.kind, target=command.target, expires_at=expires_at)
            turn.until(appended)
            position = await core.wait_durable(appended)
        core.metrics.count_revocation(command.kind)
        return self._answer(position)

    def _answer(self, position: Position) -> RevokeAnswer:
        return RevokeAnswer(position=position, revocation_epoch=self._core.ledger.revocation_epoch)


def _require_own(subject: Subject, command: RevokeCommand, decision: Recalled | None) -> None:
    """Another's token and one that never was look the same (RFC 7009 section 2.1)."""
    if command.kind != "jti":
        raise RoleRequired("an agent may revoke single tokens of its own; more than that needs the role operator")
    if decision is None or decision.agent != str(subject.spiffe_id):
        raise RecordNotFound("no such token of this agent")


def _expires_at(kind: Kind, decision: Recalled | None, now: float) -> float | None:
    """When the revocation has nothing left to cover. A key can sign for ever."""
    if kind == "kid":
        return None
    if decision is not None and decision.expires_at is not None:
        return decision.expires_at.timestamp() + LATEST_USE_SECONDS
    return now + HORIZON_SECONDS
