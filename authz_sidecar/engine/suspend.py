"""The kill switch: stop an agent, or all of them, and let them go on again.

A suspension kills every token granted before it, for good, and is a fact that the guardrails refuse. It outranks
approvals and break-glass, because those lift soft forbids only.
"""

from __future__ import annotations

from collections.abc import Iterable

from authz_sidecar.engine import revocation_records
from authz_sidecar.engine.core import Core
from authz_sidecar.engine.revoke import RevokeAnswer, agent_problem, reason_violations
from authz_sidecar.errors import AgentNotSuspended, InvalidRequest, Violation
from authz_sidecar.identity.subject import Subject
from authz_sidecar.ledger.records import Record, member
from authz_sidecar.ledger.store import Position, StoredEntry
from authz_sidecar.revoked import EVERY_AGENT, HORIZON_SECONDS
from authz_sidecar.task.standing import TRANSITIONS, Standing, StandingEvent


class ChangeStanding:
    """Suspends and resumes. `agent` is a SPIFFE ID, or `*` for every agent."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def suspend(self, subject: Subject, agent: str, reason: str) -> RevokeAnswer:
        """Stop an agent. From the moment the record is accepted nothing is permitted to it.

        An agent that is suspended already stays so, and the answer is the first suspension's.
        Raises InvalidRequest and whatever `Ledger.append` and `Core.wait_durable` raise.
        """
        _check(agent, reason)
        core = self._core
        async with core.turns.of(("standing", agent)) as turn:
            newest = core.ledger.standing_of(agent)
            successor = TRANSITIONS.get((_state(newest), StandingEvent.SUSPEND))
            if successor is None and newest is not None:
                return self._known(newest)
            record = self._record(subject, agent, Standing.SUSPENDED, reason)
            appended = core.revocations.append(
                record,
                kind="agent",
                target=agent,
                expires_at=core.record_time().timestamp() + HORIZON_SECONDS,
                suspends=True,
            )
            turn.until(appended)
            position = await core.wait_durable(appended)
        core.metrics.count_standing(record.type)
        return RevokeAnswer(position=position, revocation_epoch=core.ledger.revocation_epoch)

    async def resume(self, subject: Subject, agent: str, reason: str) -> RevokeAnswer:
        """Let an agent go on, once that is durable. Its old tokens stay dead. `*` lifts the stop of all, and only that.

        An agent that was resumed before stays so, and the answer is the last resumption's.
        Raises InvalidRequest, AgentNotSuspended and whatever `Ledger.append` and `Core.wait_durable` raise.
        """
        _check(agent, reason)
        core = self._core
        async with core.turns.of(("standing", agent)) as turn:
            newest = core.ledger.standing_of(agent)
            if newest is None:
                raise AgentNotSuspended(f"`{agent}` was never suspended")
            if (_state(newest), StandingEvent.RESUME) not in TRANSITIONS:
                return self._known(newest)
            record = self._record(subject, agent, Standing.WORKING, reason)
            appended = core.revocations.append_resumption(record, agent)
            turn.until(appended)
            position = await core.wait_durable(appended)
        core.metrics.count_standing(record.type)
        return RevokeAnswer(position=position, revocation_epoch=core.ledger.revocation_epoch)

    def _record(self, subject: Subject, agent: str, to: Standing, reason: str) -> Record:
        core = self._core
        # Stopping must work whatever the clock says.
        return revocation_records.agent_changed(
            record_id=core.new_id(), now=core.record_time(), subject=subject, agent=agent, to=to, reason=reason
        )

    def _known(self, entry: StoredEntry) -> RevokeAnswer:
        ledger = self._core.ledger
        return RevokeAnswer(
            position=Position(ledger.origin, entry.index, entry.leaf_hash), revocation_epoch=ledger.revocation_epoch
        )


def _state(newest: StoredEntry | None) -> Standing:
    return Standing(str(member(newest.record, "agent", "state"))) if newest is not None else Standing.WORKING


def _check(agent: str, reason: str) -> None:
    violations: Iterable[Violation] = reason_violations(reason, shortest=1)
    problem = "" if agent == EVERY_AGENT else agent_problem(agent)
    if problem:
        violations = (*violations, Violation("agent", problem))
    found = tuple(violations)
    if found:
        raise InvalidRequest(found)
