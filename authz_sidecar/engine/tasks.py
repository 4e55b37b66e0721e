"""Starting, reading and ending tasks. Whether a task may start is policy; how it may change is one transition table."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from authz_sidecar.engine import records
from authz_sidecar.engine.commands import StartTaskCommand
from authz_sidecar.engine.core import Core
from authz_sidecar.engine.live import LiveTask
from authz_sidecar.engine.recall import verdict_from_record
from authz_sidecar.errors import InvalidRequest, RequestIdReused, SidecarError, TaskNotActive, TaskNotFound
from authz_sidecar.identity.subject import Subject
from authz_sidecar.ledger.store import Position
from authz_sidecar.pdp.request import StartTaskFacts, start_task_query
from authz_sidecar.pdp.verdict import Permit, Verdict
from authz_sidecar.task.model import Session, Task, TaskEvent, TaskState, task_from_json


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTaskAnswer:
    """`task` is present exactly when the verdict is a permit."""

    verdict: Verdict
    task: Task | None
    policy_digest: str
    position: Position
    recalled: bool


class StartTask:
    """Starts a task for the calling agent: evaluate, append, answer."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._pending: dict[tuple[str, str], asyncio.Future[Position]] = {}

    async def __call__(self, subject: Subject, command: StartTaskCommand) -> StartTaskAnswer:
        """Raises InvalidRequest, RequestIdReused and whatever `Ledger.append` and `Core.wait_durable` raise."""
        core = self._core
        now = core.moment()
        agent = str(subject.spiffe_id)
        key = (agent, command.request_id)
        while (pending := self._pending.get(key)) is not None:
            await core.wait_settled(pending)
        recalled = self._recall(agent, command)
        if recalled is not None:
            return recalled

        ttl = command.ttl if command.ttl is not None else core.options.default_task_ttl
        if ttl > core.options.max_task_ttl:
            raise InvalidRequest.of("ttl", f"expected at most {_seconds(core.options.max_task_ttl)}")
        pdp = core.policy()
        task = Task(
            id=core.new_id(),
            agent=agent,
            purpose=command.purpose,
            initiator=command.initiator,
            scope=command.scope,
            environment=core.options.environment,
            started_at=now,
            expires_at=now + ttl,
        )
        query = start_task_query(
            pdp.bundle,
            StartTaskFacts(
                now=now,
                agent=agent,
                manifest=pdp.bundle.agents.get(agent),
                identity_method=subject.method,
                task=task,
                ceiling_level=pdp.bundle.data.level(task.scope.ceiling),
                environment=core.options.environment,
                production=core.options.production,
                ttl=ttl,
                suspended=core.revocations.suspended(agent),
                drifted=False,
            ),
        )
        verdict = pdp.evaluate(query)
        record = records.task_start(
            record_id=core.new_id(),
            now=now,
            subject=subject,
            command=command,
            task=task,
            production=core.options.production,
            pdp=pdp,
            verdict=verdict,
            evaluated=query.to_json(),
        )
        appended = core.ledger.append(record)
        self._pending[key] = appended
        appended.add_done_callback(lambda _: self._pending.pop(key, None))
        position = await core.wait_durable(appended)
        started = isinstance(verdict, Permit)
        if started:
            core.tasks.put(LiveTask(task, Session()))
        core.metrics.count_task(str(record.body["type"]))
        return StartTaskAnswer(
            verdict=verdict,
            task=task if started else None,
            policy_digest=pdp.digest,
            position=position,
            recalled=False,
        )

    def _recall(self, agent: str, command: StartTaskCommand) -> StartTaskAnswer | None:
        """The same request id with the same content gives the same answer; with other content, an error."""
        stored = self._core.ledger.find_request(agent, "start_task", command.request_id)
        if stored is None:
            return None
        body = stored.record
        request, task, policy = body["request"], body["task"], body["policy"]
        if not isinstance(request, dict) or not isinstance(task, dict) or not isinstance(policy, dict):
            raise TypeError("a task record has the wrong shape")
        if request["sha256"] != command.content_sha256:
            raise RequestIdReused(f"request id `{command.request_id}` was used with other content; use a new one")
        return StartTaskAnswer(
            verdict=verdict_from_record(body),
            task=task_from_json(task) if body["type"] == "task_started" else None,
            policy_digest=str(policy["sha256"]),
            position=Position(self._core.ledger.origin, stored.index, stored.leaf_hash),
            recalled=True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionAnswer:
    """The task after a transition, and where that was recorded."""

    task: Task
    position: Position
    revocation_epoch: int


class CompleteTask:
    """Ends a task that is done. From the moment the record is queued nothing more is permitted under the task."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def __call__(self, subject: Subject, task_id: str, summary: str) -> TransitionAnswer:
        """Raises TaskNotFound, TaskNotActive and whatever `Ledger.append` and `Core.wait_durable` raise."""
        core = self._core
        now = core.moment()
        live = core.tasks.owned(task_id, str(subject.spiffe_id))
        if live is None:
            raise TaskNotFound(f"no task `{task_id}` of this agent")
        if live.task.state_at(now) is TaskState.EXPIRED:
            raise TaskNotActive(f"task `{task_id}` expired; it needs no completion")
        before = live.task
        # Closed in memory first: a call that is decided while the record is being written already sees the end. It
        # stays closed when nobody waits any more, because the record may still become durable.
        live.task = before.after(TaskEvent.COMPLETE, now)
        record = records.task_changed(record_id=core.new_id(), now=now, subject=subject, task=live.task, note=summary)
        try:
            appended = core.ledger.append(record)
        except SidecarError:
            live.task = before
            raise
        core.tasks.follow(live, appended)
        position = await core.wait_durable(appended)
        core.metrics.count_task(record.type)
        return TransitionAnswer(task=live.task, position=position, revocation_epoch=core.ledger.revocation_epoch)


class GetTask:
    """Reads a task. An agent sees its own; `any_agent` is for operators."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def __call__(self, subject: Subject, task_id: str, *, any_agent: bool) -> Task:
        """Raises TaskNotFound. The state is the one that counts now, whether or not an expiry was recorded yet."""
        now = self._core.moment()
        live = self._core.tasks.get(task_id)
        if live is None or not (any_agent or live.task.agent == str(subject.spiffe_id)):
            raise TaskNotFound(f"no task `{task_id}` of this agent")
        if live.task.state_at(now) is TaskState.EXPIRED and live.task.state is not TaskState.EXPIRED:
            return live.task.after(TaskEvent.EXPIRE, live.task.expires_at)
        return live.task


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():g} s"
