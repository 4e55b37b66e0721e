"""What the agent says happened to a permitted call. A report that contradicts the evidence is itself evidence.

Every permit owes one outcome. One that does not come in time is recorded as missing; a report that comes after that is
recorded too, and says that it is late. Reports about one decision are taken one at a time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from authz_sidecar.engine import outcome_records, records
from authz_sidecar.engine.commands import ReportOutcomeCommand
from authz_sidecar.engine.core import Core
from authz_sidecar.engine.recall import Recalled, decision_from_record
from authz_sidecar.errors import Overloaded, RecordNotFound
from authz_sidecar.identity.subject import Subject
from authz_sidecar.ledger.store import Position
from authz_sidecar.pdp.verdict import Permit

_MOST_AT_ONCE = 256


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

    async def __call__(self, subject: Subject, command: ReportOutcomeCommand) -> OutcomeAnswer:
        """Record a report, once.

        Raises RecordNotFound when there is no such decision of this agent, and whatever `Ledger.append` and
        `Core.wait_durable` raise.
        """
        core = self._core
        stored = core.ledger.decision(command.decision_id)
        decision = decision_from_record(stored.record) if stored is not None else None
        if stored is None or decision is None or decision.agent != str(subject.spiffe_id):
            raise RecordNotFound(f"no decision `{command.decision_id}` of this agent")
        # A report is compared with the earlier ones, so the one before it has to be in the ledger.
        async with core.turns.of(("outcome", command.decision_id)) as turn:
            now = core.moment()
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
            if core.ledger.outcome_missing(command.decision_id) is not None:
                contradictions.add("reported_late")
            record = records.outcome(
                record_id=core.new_id(),
                now=now,
                subject=subject,
                command=command,
                task_id=decision.task_id,
                decision_index=stored.index,
                contradictions=sorted(contradictions),
            )
            turn.until(appended := core.ledger.append(record))
            position = await core.wait_durable(appended)
        core.metrics.count_outcome(command.status, contradicted=bool(contradictions))
        return OutcomeAnswer(position=position, contradictions=tuple(sorted(contradictions)), recalled=False)


class MissingOutcomes:
    """Records the outcomes that stayed away. What is owed stands in the ledger, so a restart forgets no debt."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def record_overdue(self) -> int:
        """Write `outcome_missing` for every permit whose token ended longer ago than the grace.

        Returns how many were written. Raises ClockBehind and what appending raises; call again for the rest.
        """
        core = self._core
        written = 0
        due = core.moment().timestamp() - core.options.outcome_grace.total_seconds()
        while found := core.ledger.overdue(due, _MOST_AT_ONCE):
            # Together, so that they share commits.
            done = await asyncio.gather(*(self._record(decision_id, index) for decision_id, index in found))
            if not any(done):
                break
            written += sum(done)
        return written

    async def _record(self, decision_id: str, index: int) -> bool:
        core = self._core
        async with core.turns.of(("outcome", decision_id)) as turn:
            # A report may have been on its way to the disk when the debt was read.
            entry = core.ledger.entry(index)
            if entry is None or not core.ledger.owes_outcome(decision_id) or decision_id in core.voids:
                return False
            decision = decision_from_record(entry.record)
            record = outcome_records.outcome_missing(
                record_id=core.new_id(), now=core.moment(), decision=decision, decision_index=index
            )
            try:
                turn.until(appended := core.ledger.append(record))
                await core.wait_durable(appended)
            except Overloaded:
                # Debts can wait; calls cannot.
                return False
        core.metrics.count_outcome("missing", contradicted=False)
        return True


def _against_decision(decision: Recalled, command: ReportOutcomeCommand) -> set[str]:
    contradictions: set[str] = set()
    if not isinstance(decision.verdict, Permit) and command.status != "not_attempted":
        contradictions.add("call_was_not_permitted")
    if command.arguments_sha256 not in (None, decision.arguments_sha256):
        contradictions.add("arguments_differ")
    return contradictions
