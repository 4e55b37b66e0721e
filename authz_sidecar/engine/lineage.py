"""The tasks above a delegated task. A child stands only while all of them do, whatever was written about itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from authz_sidecar.engine.live import LiveTasks
from authz_sidecar.task.model import Task, TaskState

_MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Lineage:
    """What is above a task.

    Attributes:
        tasks: those found, the root first; without them nothing can be compared.
        state: "active" when all are, otherwise the state of the highest one that is not, or "missing".
    """

    tasks: tuple[Task, ...] = ()
    state: str = TaskState.ACTIVE.value


NO_LINEAGE = Lineage()


def lineage(tasks: LiveTasks, task: Task, now: datetime) -> Lineage:
    """The tasks above `task` as they stand at `now`. A root task has none."""
    if not task.delegation:
        return NO_LINEAGE
    found = [tasks.get(hop.task_id) for hop in task.delegation]
    states = [live.task.state_at(now).value if live is not None else _MISSING for live in found]
    ended = next((state for state in states if state != TaskState.ACTIVE.value), TaskState.ACTIVE.value)
    return Lineage(tuple(live.task for live in found if live is not None), ended)


def stands(tasks: LiveTasks, task: Task, now: datetime) -> bool:
    """Whether the task is active at `now`, and so is every task above it."""
    active = TaskState.ACTIVE
    return task.state_at(now) is active and lineage(tasks, task, now).state == active.value
