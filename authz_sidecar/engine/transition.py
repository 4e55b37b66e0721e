"""One change of a task's state and of everything below it: in memory in one turn of the event loop, then on its way.

INVARIANT: memory runs ahead of the ledger only in the direction that restricts. An end or a suspension counts from the
moment its record is queued. A resumption counts when its record is durable; until then nothing else happens to the
task.

Records of descendants come before the record of the task above them, and the ledger keeps their order. So when the
process dies in between, what is stored is a beginning of the cascade, its last record says what it was part of, and the
next start completes it (`startup.py`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

from authz_sidecar.engine.core import Core
from authz_sidecar.engine.lifecycle_records import Cascade, Evaluated, task_changed
from authz_sidecar.engine.live import LiveTask
from authz_sidecar.errors import SidecarError, TaskNotActive, TaskNotFound
from authz_sidecar.identity.subject import Subject
from authz_sidecar.ledger.store import Position
from authz_sidecar.task.model import Hold, Task, TaskEvent, TaskState, is_final


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What happens to a task, at whose hands.

    Attributes:
        by: the rank of who asked; the sidecar itself acts for an operator.
        subject: who asked; None for the sidecar itself.
        evaluated: why it may, None where no policy is asked.
        note: free text for the payload.
    """

    event: TaskEvent
    by: Hold = Hold.OPERATOR
    subject: Subject | None = None
    evaluated: Evaluated | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Queued:
    """A change on its way: the task after it, and all its records, the task's own last."""

    task: Task
    records: tuple[asyncio.Future[Position], ...]

    async def durable(self, core: Core) -> Position:
        """Wait for all. Raises what `Core.wait_durable` raises."""
        for appended in self.records:
            await core.wait_durable(appended)
        return self.records[-1].result()


@dataclass(frozen=True, slots=True)
class _Step:
    """One record of a change: what happens to a task, the task after it, and where that comes from."""

    event: TaskEvent
    after: Task
    change: Change
    cascade: Cascade | None


def resuming(core: Core, task_id: str) -> asyncio.Future[Position] | None:
    """A resumption of the task, or of one below it, that is not durable yet. While there is one, nothing changes."""
    for member in (task_id, *core.open.descendants(task_id)):
        live = core.tasks.get(member)
        if live is not None and live.resuming is not None:
            return live.resuming
    return None


async def quiet(core: Core, task_id: str) -> None:
    """Wait until no resumption in the task's tree is on its way. Raises DeadlineExceeded."""
    while (appended := resuming(core, task_id)) is not None:
        await core.wait_settled(appended)


def queue_change(core: Core, task_id: str, change: Change, now: datetime) -> Queued:
    """Change a task and everything below it; `resuming` must be None. Does not wait for the disk.

    Raises:
        TaskNotFound, TaskNotActive: nothing was changed.
        LedgerUnavailable, Overloaded: the task was not changed; some of those below may have been, to the same end.
    """
    after = _live(core, task_id).task.after(change.event, now, by=change.by)
    from_above = Change(event=change.event, by=change.by, subject=change.subject)
    cascade = Cascade(task_id, change.event, change.by)
    below = (_below(core, affected, from_above, now, cascade) for affected in _affected(core, task_id, change.event))
    steps = [*filter(None, below), _Step(change.event, after, change, None)]
    return Queued(after, tuple(_queue(core, step, now) for step in steps))


def _live(core: Core, task_id: str) -> LiveTask:
    live = core.tasks.get(task_id)
    if live is None:
        raise TaskNotFound(f"no task `{task_id}`")
    return live


def _affected(core: Core, task_id: str, event: TaskEvent) -> list[str]:
    """Tasks below that may change with it, each before the one it was delegated from.

    A resumption reaches what the suspension from above reached. What somebody suspended below stays as it is, and so
    does everything under it.
    """
    if event is not TaskEvent.RESUME:
        return core.open.descendants(task_id)
    found: list[str] = []
    pending = [task_id]
    while pending:
        held = [child for child in core.open.children(pending.pop()) if _live(core, child).task.held_by is Hold.PARENT]
        found += held
        pending += held
    return found[::-1]


def _below(core: Core, task_id: str, change: Change, now: datetime, cascade: Cascade) -> _Step | None:
    """What a change above does to a task, None when it does nothing. A task past its deadline only expires."""
    task = _live(core, task_id).task
    event = TaskEvent.EXPIRE if task.state_at(now) is TaskState.EXPIRED else change.event
    try:
        return _Step(event, task.after(event, now, by=Hold.PARENT), change, cascade)
    except TaskNotActive:
        return None


def _queue(core: Core, step: _Step, now: datetime) -> asyncio.Future[Position]:
    live, change = _live(core, step.after.id), step.change
    record = task_changed(
        record_id=core.new_id(),
        now=now,
        event=step.event,
        task=step.after,
        subject=change.subject,
        evaluated=change.evaluated,
        cascade=step.cascade,
        note=change.note,
    )
    before, restricts = live.task, step.event is not TaskEvent.RESUME
    if restricts:
        live.task = step.after
    try:
        appended = core.ledger.append(record)
    except SidecarError:
        live.task = before
        raise
    core.tasks.follow(live, appended)
    if is_final(step.after.state):
        core.open.end(step.after, appended)
    if not restricts:
        _resume_when_durable(live, step.after, appended)
    core.metrics.count_task(record.type)
    return appended


def _resume_when_durable(live: LiveTask, after: Task, appended: asyncio.Future[Position]) -> None:
    live.resuming = appended

    def settled(future: asyncio.Future[Position]) -> None:
        live.resuming = None
        if not future.cancelled() and future.exception() is None:
            live.task = after

    appended.add_done_callback(settled)
