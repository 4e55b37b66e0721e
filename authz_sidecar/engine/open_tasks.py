"""Which tasks have not ended, when each must, and which of them were delegated from which.

Built from the ledger at start, about 300 bytes for each open task. A task is in here from the moment its first record
is on its way, so that the end of its parent cannot miss it, until the record of its end is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime
from heapq import heappop, heappush

from authz_sidecar.ledger.store import Position
from authz_sidecar.task.model import Task


class OpenTasks:
    """Open tasks by deadline and by parent."""

    def __init__(self, recorded: Iterable[tuple[str, str | None, datetime]]) -> None:
        """`recorded`: what the ledger has as open: id, parent's id, deadline."""
        self._parents: dict[str, str | None] = {}
        self._children: dict[str, list[str]] = {}
        self._deadlines: list[tuple[datetime, str]] = []
        for task_id, parent_id, deadline in recorded:
            self._add(task_id, parent_id, deadline)

    def __len__(self) -> int:
        return len(self._parents)

    def add(self, task: Task, appended: asyncio.Future[Position]) -> None:
        """A task whose first record is on its way. It is forgotten when the record is refused."""
        self._add(task.id, task.parent_id, task.expires_at)
        appended.add_done_callback(lambda future: self.remove(task.id) if _failed(future) else None)

    def end(self, task: Task, appended: asyncio.Future[Position]) -> None:
        """The record of a task's end is on its way. When it is refused, the task stays open and is due again."""

        def settled(future: asyncio.Future[Position]) -> None:
            if _failed(future):
                self.due_again(task.id, task.expires_at)
            else:
                self.remove(task.id)

        appended.add_done_callback(settled)

    def remove(self, task_id: str) -> None:
        parent_id = self._parents.pop(task_id, None)
        siblings = self._children.get(parent_id) if parent_id is not None else None
        if parent_id is not None and siblings is not None:
            siblings.remove(task_id)
            if not siblings:
                del self._children[parent_id]

    def children(self, task_id: str) -> tuple[str, ...]:
        """Open tasks that were delegated from this one."""
        return tuple(self._children.get(task_id, ()))

    def descendants(self, task_id: str) -> list[str]:
        """Open tasks below this one, every task before the one it was delegated from."""
        found: list[str] = []
        pending = [*self.children(task_id)]
        while pending:
            child = pending.pop()
            found.append(child)
            pending.extend(self.children(child))
        return found[::-1]

    def take_due(self, now: datetime, most: int) -> list[tuple[str, datetime]]:
        """Up to `most` open tasks whose deadline has come, with it. Each is given out once, until `due_again`."""
        due: list[tuple[str, datetime]] = []
        while self._deadlines and self._deadlines[0][0] <= now and len(due) < most:
            deadline, task_id = heappop(self._deadlines)
            if task_id in self._parents:
                due.append((task_id, deadline))
        return due

    def due_again(self, task_id: str, deadline: datetime) -> None:
        """Its end could not be recorded."""
        if task_id in self._parents:
            heappush(self._deadlines, (deadline, task_id))

    def _add(self, task_id: str, parent_id: str | None, deadline: datetime) -> None:
        self._parents[task_id] = parent_id
        if parent_id is not None:
            self._children.setdefault(parent_id, []).append(task_id)
        heappush(self._deadlines, (deadline, task_id))


def _failed(future: asyncio.Future[Position]) -> bool:
    return future.cancelled() or future.exception() is not None
