"""Expiry as an event: a task whose deadline has come gets its `task_expired` record, whether or not anybody asks.

Nothing waits for it: decisions and introspection compare the deadline with the clock themselves. The deadlines of all
open tasks are read from the ledger at start, so what ran out while nothing ran is recorded then.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import structlog

from authz_sidecar.engine.core import Core
from authz_sidecar.engine.transition import Change, queue_change, resuming
from authz_sidecar.errors import SidecarError, TaskNotActive, TaskNotFound
from authz_sidecar.ledger.store import Position
from authz_sidecar.task.model import TaskEvent

_log = structlog.get_logger(__name__)

# How late an expiry may be recorded. The clock is looked at so often, and not slept on, because it can be set.
PERIOD = timedelta(seconds=1)
_BATCH = 256


class ExpireTasks:
    """Records expiries as they fall due."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def run(self) -> None:
        """Go on until cancelled. What cannot be recorded now is tried again."""
        while True:
            try:
                while await self.expire_due():
                    pass
            except SidecarError as error:
                _log.warning("expiries not recorded yet", reason=error.reason, message=error.message)
            await asyncio.sleep(PERIOD.total_seconds())

    async def expire_due(self) -> int:
        """Record some of the expiries that are due, with those below first, and wait until they are durable.

        Returns how many tasks were due. Raises ClockBehind, LedgerUnavailable, Overloaded and DeadlineExceeded; what
        was not recorded is due again.
        """
        core = self._core
        now = core.moment()
        due = core.open.take_due(now, _BATCH)
        on_their_way: list[asyncio.Future[Position]] = []
        try:
            while due:
                on_their_way += self._expire(*due[-1], now)
                due.pop()
        finally:
            for task_id, deadline in due:
                core.open.due_again(task_id, deadline)
        for appended in on_their_way:
            await core.wait_durable(appended)
        return len(on_their_way)

    def _expire(self, task_id: str, deadline: datetime, now: datetime) -> tuple[asyncio.Future[Position], ...]:
        core = self._core
        if resuming(core, task_id) is None:
            try:
                return queue_change(core, task_id, Change(event=TaskEvent.EXPIRE), now).records
            except TaskNotActive:
                # It has ended already; should the record of that be refused, it will be due again.
                return ()
            except TaskNotFound:
                # The record of its beginning is still on its way.
                pass
        core.open.due_again(task_id, deadline)
        return ()
