"""What the agent says happened to a permitted call. A report that contradicts the evidence is itself evidence."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from authz_sidecar.engine import records
from authz_sidecar.engine.commands import ReportOutcomeCommand
from authz_sidecar.engine.core import Core
from authz_sidecar.engine.recall import Recalled, decision_from_record
from authz_sidecar.errors import RecordNotFound
from authz_sidecar.identity.subject import Subject
from authz_sidecar.ledger.store import Position
from authz_sidecar.pdp.verdict import Permit


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeAnswer:
    """Receipt of a report. `contradictions` is empty when it fits the decision and no earlier report differs."""

    position: Position
    contradictions: tuple[str, ...]
    recalled: bool


class ReportOutcome:
    """Links an outcome to its decision."""

    def __init__(self, core: Core) -> None:
        self._core = core
        # By decision: a report is compared with the earlier ones, so the one before it has to be in the ledger.
        self._pending: dict[str, asyncio.Future[Position]] = {}

    async def __call__(self, subject: Subject, command: ReportOutcomeCommand) -> OutcomeAnswer:
        """Record a report, once.

        Raises RecordNotFound when there is no such decision of this agent, and whatever `Ledger.append` and
        `Core.wait_durable` raise.
        """
        core = self._core
        while (pending := self._pending.get(command.decision_id)) is not None:
            await core.wait_settled(pending)
        now = core.moment()
        stored = core.ledger.decision(command.decision_id)
        decision = decision_from_record(stored.record) if stored is not None else None
        if stored is None or decision is None or decision.agent != str(subject.spiffe_id):
            raise RecordNotFound(f"no decision `{command.decision_id}` of this agent")
        contradictions = _against_decision(decision, command)
        for earlier in core.ledger.outcomes(command.decision_id):
            body = earlier.record
            reported = (body["status"], body["result_sha256"], body["arguments_sha256"])
            if reported == (command.status, command.result_sha256, command.arguments_sha256):
                known = body["contradictions"]
                return OutcomeAnswer(
                    position=Position(core.ledger.origin, earlier.index, earlier.leaf_hash),
                    contradictions=tuple(map(str, known if isinstance(known, list) else ())),
                    recalled=True,
                )
            contradictions.add("reported_before_differently")
        record = records.outcome(
            record_id=core.new_id(),
            now=now,
            subject=subject,
            command=command,
            task_id=decision.task_id,
            decision_index=stored.index,
            contradictions=sorted(contradictions),
        )
        appended = core.ledger.append(record)
        self._pending[command.decision_id] = appended
        appended.add_done_callback(lambda _: self._pending.pop(command.decision_id, None))
        position = await core.wait_durable(appended)
        core.metrics.count_outcome(command.status, contradicted=bool(contradictions))
        return OutcomeAnswer(position=position, contradictions=tuple(sorted(contradictions)), recalled=False)


def _against_decision(decision: Recalled, command: ReportOutcomeCommand) -> set[str]:
    contradictions: set[str] = set()
    if not isinstance(decision.verdict, Permit) and command.status != "not_attempted":
        contradictions.add("call_was_not_permitted")
    if command.arguments_sha256 not in (None, decision.arguments_sha256):
        contradictions.add("arguments_differ")
    return contradictions
