"""The tasks that are being worked on, in memory, so that a decision waits for no disk but the one write it needs.

INVARIANT: evaluation and the update of the session happen in one turn of the event loop, before the record is durable.
Two concurrent calls of a task therefore never see the same counts, and a call that posts outside sees the read that is
still being written. Memory runs ahead of the ledger only in the direction that restricts: when an append fails, the
task is forgotten here and read again from the ledger.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from authz_sidecar.ledger.store import Ledger
from authz_sidecar.task.model import Session, Task, session_from_json, task_from_json

_MOST_TASKS = 10_000


@dataclass(slots=True)
class LiveTask:
    """A task and what happened in it so far.

    Attributes:
        decisions: decision id by request id, for recall. About 200 bytes for each call of the task.
        pending: records of the task that are not durable yet.
    """

    task: Task
    session: Session
    decisions: dict[str, str] = field(default_factory=dict)
    pending: int = 0


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

    def forget(self, task_id: str) -> None:
        """Drop what memory believes; the next use reads the ledger."""
        self._live.pop(task_id, None)
