"""Suspending, resuming, completing and cancelling a task: policy says who may, the transition table what can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from authz_sidecar.engine.core import Core
from authz_sidecar.engine.lifecycle_records import Evaluated, change_refused
from authz_sidecar.engine.lineage import lineage
from authz_sidecar.engine.tasks import sees
from authz_sidecar.engine.transition import Change, queue_change, quiet
from authz_sidecar.errors import TaskChangeRefused, TaskNotFound
from authz_sidecar.identity.subject import Subject
from authz_sidecar.ledger.store import Position
from authz_sidecar.pdp.request import AgentFacts
from authz_sidecar.pdp.task_request import ChangeAction, ChangeTaskFacts, change_task_query
from authz_sidecar.pdp.verdict import Permit, Verdict
from authz_sidecar.policy.bundle import Bundle
from authz_sidecar.task.model import Hold, Task, TaskEvent

_ACTIONS: Mapping[TaskEvent, ChangeAction] = {
    TaskEvent.SUSPEND: "suspend_task",
    TaskEvent.RESUME: "resume_task",
    TaskEvent.COMPLETE: "complete_task",
    TaskEvent.CANCEL: "cancel_task",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionAnswer:
    """The task after a transition, and where that was recorded."""

    task: Task
    position: Position
    revocation_epoch: int


class ChangeTask:
    """Changes the state of a task and of everything below it.

    From the moment the records are queued nothing more is permitted under what they end or suspend.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    async def __call__(
        self, subject: Subject, event: TaskEvent, task_id: str, note: str, *, operator: bool
    ) -> TransitionAnswer:
        """
        Args:
            event: any but an expiry, which nobody asks for.
            operator: whether the configuration makes the caller an operator.

        Raises:
            TaskNotFound: no such task, or none that the caller may know of.
            TaskChangeRefused: policy says no; that is recorded.
            TaskNotActive: the state of the task does not admit it; nothing is recorded.
            NotReady, ClockBehind, LedgerUnavailable, Overloaded, DeadlineExceeded: no answer is possible now.
        """
        core = self._core
        await quiet(core, task_id)
        now = core.moment()
        live = core.tasks.get(task_id)
        if live is None or not (operator or sees(str(subject.spiffe_id), live.task)):
            raise TaskNotFound(f"no task `{task_id}` of this agent")
        task = live.task
        evaluated = self._evaluate(subject, event, task, now, operator=operator)
        if not isinstance(evaluated.verdict, Permit):
            record = change_refused(
                record_id=core.new_id(),
                now=now,
                subject=subject,
                action=_ACTIONS[event],
                task=task,
                evaluated=evaluated,
                note=note,
            )
            refused_at = await core.store(record)
            core.metrics.count_task(record.type)
            raise _refusal(event, task.id, evaluated.verdict, refused_at)
        change = Change(
            event=event, by=_rank(subject, task, operator=operator), subject=subject, evaluated=evaluated, note=note
        )
        # In the same turn as the evaluation: nothing can have changed since.
        queued = queue_change(core, task_id, change, now)
        position = await queued.durable(core)
        return TransitionAnswer(task=queued.task, position=position, revocation_epoch=core.ledger.revocation_epoch)

    def _evaluate(self, subject: Subject, event: TaskEvent, task: Task, now: datetime, *, operator: bool) -> Evaluated:
        core = self._core
        pdp = core.policy()
        query = change_task_query(
            pdp.bundle,
            ChangeTaskFacts(
                now=now,
                action=_ACTIONS[event],
                caller=agent_facts(core, pdp.bundle, str(subject.spiffe_id)),
                owner=agent_facts(core, pdp.bundle, task.agent),
                identity_method=subject.method,
                task=replace(task, state=task.state_at(now)),
                chain=lineage(core.tasks, task, now).state,
                operator=operator,
                environment=core.options.environment,
                production=core.options.production,
            ),
        )
        return Evaluated(pdp, query.to_json(), pdp.evaluate(query))


def agent_facts(core: Core, bundle: Bundle, agent: str) -> AgentFacts:
    """What is known about an agent now."""
    return AgentFacts(
        agent=agent,
        manifest=bundle.agents.get(agent),
        suspended=core.revocations.suspended(agent),
        drifted=False,
    )


def _rank(subject: Subject, task: Task, *, operator: bool) -> Hold:
    if operator:
        return Hold.OPERATOR
    return Hold.AGENT if task.agent == str(subject.spiffe_id) else Hold.DELEGATOR


def _refusal(event: TaskEvent, task_id: str, verdict: Verdict, position: Position) -> TaskChangeRefused:
    ids = [ref.id for ref in verdict.determining]
    why = f": {', '.join(ids)}" if ids else " (no policy permits it)"
    return TaskChangeRefused(
        f"policy does not let this caller {event.value} task `{task_id}`{why}",
        metadata={
            "reason_code": verdict.reason_code,
            "policies": ",".join(ids),
            "ledger_index": str(position.index),
        },
    )
