"""One at a time for each key: what is decided from the ledger must be in it before the same is decided again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from authz_sidecar.errors import DeadlineExceeded


class Turn:
    """A turn that was taken."""

    def __init__(self) -> None:
        self.pending: asyncio.Future[Any] | None = None

    def until(self, appended: asyncio.Future[Any]) -> None:
        """Hold the turn until this append settles, also when whoever waits for it gives up first."""
        self.pending = appended


class Turns:
    """Turns by key, first come first served. On one event loop; keys that nobody waits for take no memory."""

    def __init__(self, longest_wait: timedelta) -> None:
        self._longest_wait_s = longest_wait.total_seconds()
        self._locks: dict[Hashable, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def of(self, key: Hashable) -> AsyncIterator[Turn]:
        """Wait for the turn of `key`, and hold it for the block. Raises DeadlineExceeded when it does not come."""
        lock, holders = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, holders + 1)
        turn = Turn()
        try:
            async with asyncio.timeout(self._longest_wait_s):
                await lock.acquire()
        except BaseException as error:
            self._leave(key)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded("another request about the same is still being recorded; try again") from None
            raise
        try:
            yield turn
        finally:
            if turn.pending is None or turn.pending.done():
                self._release(key, lock)
            else:
                turn.pending.add_done_callback(lambda _: self._release(key, lock))

    def _release(self, key: Hashable, lock: asyncio.Lock) -> None:
        lock.release()
        self._leave(key)

    def _leave(self, key: Hashable) -> None:
        lock, holders = self._locks.pop(key)
        if holders > 1:
            self._locks[key] = (lock, holders - 1)
