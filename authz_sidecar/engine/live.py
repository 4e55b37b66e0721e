"""The tasks that are being worked on, in memory, so that a decision waits for no disk but the one write it needs.

INVARIANT: evaluation and the update of the session happen in one turn of the event loop, before the record is durable.
Two concurrent calls of a task therefore never see the same counts, and a call that posts outside sees the read that is
still being written. Memory runs ahead of the ledger only in the direction that restricts: when a record is refused,
what memory says about its task is in doubt, and is read again from the ledger once nothing of the task is on its way.
Not before: the ledger does not know yet of an end or a read that is still being written.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from authz_sidecar.ledger.store import Ledger, Position
from authz_sidecar.task.model import Session, Task, session_from_json, task_from_json

_MOST_TASKS = 10_000


@dataclass(slots=True)
class LiveTask:
    """A task and what happened in it so far.

    Attributes:
        decisions: decision id by request id, for recall. About 200 bytes for each call of the task.
        pending: records of the task that are not durable yet.
        in_doubt: memory may say more than the ledger ever will.
        resuming: the record of a resumption that is not durable yet, so that the task is still suspended here.
    """

    task: Task
    session: Session
    decisions: dict[str, str] = field(default_factory=dict)
    pending: int = 0
    in_doubt: bool = False
    resuming: asyncio.Future[Position] | None = None


class LiveTasks:
    """A bounded cache over the ledger's projections."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._live: OrderedDict[str, LiveTask] = OrderedDict()

    def get(self, task_id: str) -> LiveTask | None:
        """The task, from memory or from the ledger; None when there is none."""
        live = self._live.get(task_id)
        if live is not None:
            self._live.move_to_end(task_id)
            return live
        stored = self._ledger.load_task(task_id)
        if stored is None:
            return None
        live = LiveTask(
            task_from_json(stored),
            session_from_json(self._ledger.load_session(task_id)),
            self._ledger.decisions_by_request(task_id, str(stored["agent"])),
        )
        self.put(live)
        return live

    def owned(self, task_id: str, agent: str) -> LiveTask | None:
        """The task when `agent` owns it; None when it does not exist or is another's."""
        live = self.get(task_id)
        return live if live is not None and live.task.agent == agent else None

    def put(self, live: LiveTask) -> None:
        self._live[live.task.id] = live
        self._live.move_to_end(live.task.id)
        if len(self._live) > _MOST_TASKS:
            # A task with pending records would come back from the ledger without them.
            idle = next((task_id for task_id, other in self._live.items() if not other.pending), None)
            if idle is not None:
                del self._live[idle]

    def follow(self, live: LiveTask, appended: asyncio.Future[Position]) -> None:
        """Keep the task in memory while a record of it is on its way to the disk, whoever still waits for it."""
        live.pending += 1

        def settled(future: asyncio.Future[Position]) -> None:
            live.pending -= 1
            live.in_doubt |= future.cancelled() or future.exception() is not None
            self._forget_doubtful(live)

        appended.add_done_callback(settled)

    def doubt(self, live: LiveTask) -> None:
        """A record of the task was refused: believe the ledger again as soon as it has everything that was accepted."""
        live.in_doubt = True
        self._forget_doubtful(live)

    def _forget_doubtful(self, live: LiveTask) -> None:
        if live.in_doubt and not live.pending and self._live.get(live.task.id) is live:
            del self._live[live.task.id]
