"""The revocation feed: whoever watches is told of every revocation, after it is durable and before its caller is.

Each watcher gets what is in force first, or what it missed since the number it knows, and then every change in order,
with a sign of life when there is none. It has a queue of bounded length: one that does not keep up is dropped, and
comes back with the number that it had reached.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from authz_sidecar.errors import BehindCaller, Overloaded, Unavailable
from authz_sidecar.ledger.store import Ledger
from authz_sidecar.revoked import Revocation


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Revocations in force at `sequence`, or a part of them; `more` when another part follows."""

    sequence: int
    revocations: tuple[Revocation, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing happened since `sequence`."""

    sequence: int
    time: datetime


FeedMessage: TypeAlias = Snapshot | Revocation | Heartbeat


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedOptions:
    """Limits.

    Attributes:
        heartbeat: longest silence.
        most_watchers: watchers at a time.
        most_queued: revocations that wait for one watcher.
        most_replayed: revocations that a returning watcher is told one by one; beyond it gets a snapshot.
        part: revocations in one part of a snapshot.
    """

    heartbeat: timedelta = timedelta(seconds=1)
    most_watchers: int = 1024
    most_queued: int = 4096
    most_replayed: int = 4096
    part: int = 4096


class _Watcher:
    def __init__(self, most: int) -> None:
        self._most = most
        self.queue: deque[Revocation] = deque()
        self.dropped = False
        self.changed = asyncio.Event()

    def tell(self, revocation: Revocation) -> None:
        if len(self.queue) >= self._most:
            self.dropped = True
            self.queue.clear()
        if not self.dropped:
            self.queue.append(revocation)
        self.changed.set()


class RevocationFeed:
    """All watchers of one sidecar. On one event loop."""

    def __init__(self, ledger: Ledger, *, now: Callable[[], datetime], options: FeedOptions | None = None) -> None:
        self._ledger = ledger
        self._now = now
        self._options = options or FeedOptions()
        self._watchers: set[_Watcher] = set()
        self._closed = False

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    def publish(self, revocation: Revocation) -> None:
        """Tell every watcher of a durable revocation. Never waits."""
        for watcher in self._watchers:
            watcher.tell(revocation)

    def close(self) -> None:
        """End every watch; watchers come back to whoever serves the endpoint then."""
        self._closed = True
        for watcher in self._watchers:
            watcher.changed.set()

    async def watch(self, after: int) -> AsyncGenerator[FeedMessage, None]:
        """Everything from here on.

        Args:
            after: the number that the watcher has reached; 0 for none.

        Raises:
            BehindCaller: the watcher has been told more than this ledger holds. Its knowledge must not be replaced.
            Overloaded: too many watchers, or this one does not keep up.
            Unavailable: the feed was closed.
        """
        reached = self._ledger.revocation_epoch
        if after > reached:
            raise BehindCaller(f"this sidecar is at revocation epoch {reached}, the caller knows {after}")
        if len(self._watchers) >= self._options.most_watchers:
            raise Overloaded(f"{len(self._watchers)} watchers follow the feed already; introspect, or try again later")
        watcher = _Watcher(self._options.most_queued)
        self._watchers.add(watcher)
        try:
            # In the turn in which the watcher was added, so that nothing falls between what is read and what is told.
            for message in list(self._so_far(after, reached)):
                yield message
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._options.heartbeat.total_seconds()):
                        await watcher.changed.wait()
                watcher.changed.clear()
                self._check(watcher)
                if not watcher.queue:
                    yield Heartbeat(reached, self._now())
                while watcher.queue:
                    revocation = watcher.queue.popleft()
                    reached = revocation.sequence
                    yield revocation
                    self._check(watcher)
        finally:
            self._watchers.discard(watcher)

    def _check(self, watcher: _Watcher) -> None:
        if watcher.dropped:
            raise Overloaded(f"the watcher fell {self._options.most_queued} revocations behind; watch again to go on")
        if self._closed:
            raise Unavailable("the sidecar is stopping; watch again to go on")

    def _so_far(self, after: int, reached: int) -> Iterator[FeedMessage]:
        if after > 0 and reached - after <= self._options.most_replayed:
            missed = self._ledger.revocations_after(after, limit=reached - after) if reached > after else []
            yield from missed
            yield Heartbeat(reached, self._now())
            return
        found = self._ledger.revocations_in_force(self._now(), up_to=reached)
        part = self._options.part
        for start in range(0, max(1, len(found)), part):
            yield Snapshot(reached, tuple(found[start : start + part]), more=start + part < len(found))
