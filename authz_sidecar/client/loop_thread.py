"""An event loop in a thread of its own, for callers that have none. Nothing that it computed gets lost on the way."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from authz_sidecar.client.errors import SidecarUnavailable

T = TypeVar("T")


def ignore(_value: object) -> None:
    """For values that nobody has to be told about when they are not wanted any more."""


class LoopThread:
    """Runs coroutines in a daemon thread. Not usable in a forked child: threads do not survive a fork."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._running: set[asyncio.Task[None]] = set()
        # Held while something is handed over, so that nothing is handed to a loop that will not run it.
        self._handover = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="authz-sidecar-client", daemon=True)
        self._thread.start()

    @property
    def forked(self) -> bool:
        """True in a process other than the one that made this."""
        return os.getpid() != self._pid

    def call_soon(self, function: Callable[[], None]) -> None:
        """Run a function on the loop's thread. Raises SidecarUnavailable after `stop` and after a fork."""
        if self.forked:
            raise SidecarUnavailable("FORKED", "this client was made before a fork; make one in each process")
        with self._handover:
            if self._stopped:
                raise SidecarUnavailable("CLIENT_CLOSED", "the client was closed")
            self._loop.call_soon_threadsafe(function)

    def run(self, coroutine: Callable[[], Coroutine[Any, Any, T]], *, unclaimed: Callable[[T], None] = ignore) -> T:
        """Run a coroutine to its end and return what it returns, or raise what it raises.

        `unclaimed` gets the value instead when the caller was interrupted meanwhile. It runs on either thread.
        """
        future = self._start(coroutine, unclaimed)
        try:
            return future.result()
        except BaseException:
            _disclaim(future, unclaimed)
            raise

    async def run_async(
        self, coroutine: Callable[[], Coroutine[Any, Any, T]], *, unclaimed: Callable[[T], None] = ignore
    ) -> T:
        """The same for callers on another event loop."""
        future = self._start(coroutine, unclaimed)
        try:
            return await asyncio.wrap_future(future)
        except BaseException:
            _disclaim(future, unclaimed)
            raise

    def stop(self) -> None:
        """End the thread. What still runs is cancelled."""
        with self._handover:
            self._stopped = True
            self._loop.call_soon_threadsafe(lambda: self._running.add(self._loop.create_task(self._wind_up())))
        self._thread.join()
        self._loop.close()

    def _start(self, coroutine: Callable[[], Coroutine[Any, Any, T]], unclaimed: Callable[[T], None]) -> Future[T]:
        future: Future[T] = Future()

        async def deliver() -> None:
            try:
                value = await coroutine()
            except BaseException as error:
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
                if not isinstance(error, Exception):
                    raise
                return
            if future.set_running_or_notify_cancel():
                future.set_result(value)
            else:
                unclaimed(value)

        def start() -> None:
            task = self._loop.create_task(deliver())
            self._running.add(task)
            task.add_done_callback(self._running.discard)

        self.call_soon(start)
        return future

    async def _wind_up(self) -> None:
        running = self._running - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._loop.stop()


def _disclaim(future: Future[T], unclaimed: Callable[[T], None]) -> None:
    """Exactly one side ends up with the value: the caller gave up before it was there, or takes it back from here."""
    if not future.cancel():
        future.add_done_callback(lambda done: None if done.exception() is not None else unclaimed(done.result()))
