"""Giving part of a task to another agent: a child task with less authority, and a chain that nobody can supply."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime

from authz_sidecar.engine import lifecycle_records
from authz_sidecar.engine.commands import DelegateTaskCommand
from authz_sidecar.engine.core import Core
from authz_sidecar.engine.lifecycle import agent_facts
from authz_sidecar.engine.lifecycle_records import Evaluated
from authz_sidecar.engine.lineage import lineage
from authz_sidecar.engine.live import LiveTask
from authz_sidecar.engine.recall import verdict_from_record
from authz_sidecar.errors import RequestIdReused, TaskNotActive, TaskNotFound
from authz_sidecar.identity.subject import Subject
from authz_sidecar.ledger.records import member
from authz_sidecar.ledger.store import Position
from authz_sidecar.pdp.evaluate import Pdp
from authz_sidecar.pdp.query import Query
from authz_sidecar.pdp.task_request import DelegateTaskFacts, delegate_task_query
from authz_sidecar.pdp.verdict import Deny, Permit, Verdict
from authz_sidecar.task.attenuation import Excess, child_of, excess
from authz_sidecar.task.model import Session, Task, task_from_json


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegateTaskAnswer:
    """`task` is the child; present exactly when the verdict is a permit."""

    verdict: Verdict
    task: Task | None
    position: Position


class DelegateTask:
    """Delegates: compare with the parent, evaluate, append, answer."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._pending: dict[tuple[str, str], asyncio.Future[Position]] = {}

    async def __call__(self, subject: Subject, command: DelegateTaskCommand) -> DelegateTaskAnswer:
        """
        Raises:
            TaskNotFound: no such task of the caller.
            TaskNotActive: its deadline leaves nothing to delegate.
            RequestIdReused: the request id was used with other content.
            NotReady, ClockBehind, LedgerUnavailable, Overloaded, DeadlineExceeded: no answer is possible now.
        """
        core = self._core
        agent = str(subject.spiffe_id)
        key = (agent, command.request_id)
        while (pending := self._pending.get(key)) is not None:
            await core.wait_settled(pending)
        recalled = self._recall(agent, command)
        if recalled is not None:
            return recalled
        now = core.moment()
        parent = core.tasks.owned(command.parent_task_id, agent)
        if parent is None:
            raise TaskNotFound(f"no task `{command.parent_task_id}` of this agent")
        child = self._child(parent.task, command, now)
        pdp = core.policy()
        exceeds = excess(child, parent.task, pdp.bundle.data.level)
        query = self._query(pdp, subject, parent.task, child, exceeds)
        evaluated = Evaluated(pdp, query.to_json(), _verdict(pdp, query, exceeds))
        record = lifecycle_records.delegation(
            record_id=core.new_id(),
            now=now,
            subject=subject,
            command=command,
            child=child,
            production=core.options.production,
            evaluated=evaluated,
        )
        appended = core.ledger.append(record)
        self._pending[key] = appended
        appended.add_done_callback(lambda _: self._pending.pop(key, None))
        live: LiveTask | None = None
        if isinstance(evaluated.verdict, Permit):
            # Known before it is durable, so that an end of the parent meanwhile reaches it.
            live = LiveTask(child, Session())
            core.tasks.put(live)
            core.tasks.follow(live, appended)
            core.open.add(child, appended)
        position = await core.wait_durable(appended)
        core.metrics.count_task(record.type)
        return DelegateTaskAnswer(verdict=evaluated.verdict, task=live.task if live else None, position=position)

    def _child(self, parent: Task, command: DelegateTaskCommand, now: datetime) -> Task:
        """The child as asked for; only a duration that was left open takes what the parent has."""
        options = self._core.options
        end = now + command.ttl if command.ttl is not None else min(now + options.default_task_ttl, parent.expires_at)
        if end <= now:
            raise TaskNotActive(f"task `{parent.id}` is past its end; nothing is left to delegate")
        return child_of(
            parent,
            task_id=self._core.new_id(),
            agent=command.agent,
            purpose=command.purpose,
            scope=command.scope,
            now=now,
            end=end,
        )

    def _query(self, pdp: Pdp, subject: Subject, parent: Task, child: Task, exceeds: frozenset[Excess]) -> Query:
        core, now = self._core, child.started_at
        return delegate_task_query(
            pdp.bundle,
            DelegateTaskFacts(
                now=now,
                caller=agent_facts(core, pdp.bundle, parent.agent),
                delegate=agent_facts(core, pdp.bundle, child.agent),
                identity_method=subject.method,
                child=child,
                parent=replace(parent, state=parent.state_at(now)),
                parent_chain=lineage(core.tasks, parent, now).state,
                exceeds=exceeds,
                environment=core.options.environment,
                production=core.options.production,
            ),
        )

    def _recall(self, agent: str, command: DelegateTaskCommand) -> DelegateTaskAnswer | None:
        """The same request id with the same content gives the same answer; with other content, an error."""
        core = self._core
        stored = core.ledger.find_request(agent, "start_task", command.request_id)
        if stored is None:
            return None
        body = stored.record
        if member(body, "request", "sha256") != command.content_sha256:
            raise RequestIdReused(f"request id `{command.request_id}` was used with other content; use a new one")
        document = body["task"]
        delegated = body["type"] == "task_delegated" and isinstance(document, dict)
        return DelegateTaskAnswer(
            verdict=verdict_from_record(body),
            task=task_from_json(document) if delegated and isinstance(document, dict) else None,
            position=Position(core.ledger.origin, stored.index, stored.leaf_hash),
        )


def _verdict(pdp: Pdp, query: Query, exceeds: frozenset[Excess]) -> Verdict:
    """What the policies say. A bundle that lost its guardrails still cannot make authority grow."""
    verdict = pdp.evaluate(query)
    if isinstance(verdict, Permit) and exceeds:
        return Deny(
            reason_code="exceeds_parent",
            determining=verdict.determining,
            errors=tuple(sorted(f"{kind.value}: more than the parent has" for kind in exceeds)),
        )
    return verdict
