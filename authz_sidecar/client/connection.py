"""Channels over their life: one is current, those it replaced end after their last call."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from authz_sidecar.client.credentials import ChannelSource, CredentialUnusable, Opened
from authz_sidecar.client.failures import Failure, Lost
from authz_sidecar.client.stream import Answer, AuthorizeStream
from authz_sidecar.v1 import authorization_pb2_grpc, task_pb2_grpc

_LOG = logging.getLogger("authz_sidecar.client")

# How long calls in progress may take when their channel closes; then they are cancelled.
_GRACE_S = 0.5


class Connection:
    """A channel with its stubs and its stream."""

    def __init__(self, opened: Opened, *, on_unclaimed: Callable[[Answer], None]) -> None:
        self._channel = opened.channel
        self._on_unclaimed = on_unclaimed
        self._stream: AuthorizeStream | None = None
        self.metadata = opened.metadata
        # The generated stubs follow their channel; only their type declarations have a second name for it.
        self.authorization = cast(
            "authorization_pb2_grpc.AuthorizationServiceAsyncStub",
            authorization_pb2_grpc.AuthorizationServiceStub(opened.channel),
        )
        self.tasks = cast("task_pb2_grpc.TaskServiceAsyncStub", task_pb2_grpc.TaskServiceStub(opened.channel))
        self.calls = 0

    @property
    def last_heard(self) -> float:
        """When the stream's last answer came, in the loop's time; minus infinity before the first."""
        return self._stream.last_heard if self._stream is not None else -math.inf

    def stream(self) -> AuthorizeStream:
        """The open stream; a new one when there is none or the last one ended."""
        if self._stream is None or self._stream.ended:
            call = self.authorization.AuthorizeStream(metadata=self.metadata)
            self._stream = AuthorizeStream(call, on_unclaimed=self._on_unclaimed)
        return self._stream

    async def close(self, reason: Failure) -> None:
        """End the stream and the channel. Callers that still wait on the stream get `reason`."""
        if self._stream is not None:
            await self._stream.close(reason)
        await self._channel.close(grace=_GRACE_S)


class Connections:
    """Hands out the current connection, replaced whenever the credential changed."""

    def __init__(self, source: ChannelSource, *, on_unclaimed: Callable[[Answer], None]) -> None:
        self._source = source
        self._on_unclaimed = on_unclaimed
        self._current: Connection | None = None
        self._version: object = None
        self._refused = ""
        self._retired: set[Connection] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @contextmanager
    def lease(self) -> Iterator[Connection]:
        """The connection to make one call on, open for as long as the lease. Raises Lost when there is none."""
        connection = self._newest()
        connection.calls += 1
        try:
            yield connection
        finally:
            self._release(connection)

    def discard(self, connection: Connection, *, linger_s: float) -> None:
        """Use a new connection from now on. The old one stays for `linger_s`, for answers that come late."""
        if self._current is not connection:
            return
        self._current = None
        self._version = None
        connection.calls += 1
        asyncio.get_running_loop().call_later(linger_s, self._release, connection)
        self._retire(connection)

    async def close(self, reason: Failure) -> None:
        """End all connections at once."""
        remaining = [*self._retired, *([self._current] if self._current else [])]
        self._current = None
        self._retired.clear()
        await asyncio.gather(*(connection.close(reason) for connection in remaining), *self._closing)

    def _newest(self) -> Connection:
        try:
            opened = self._source.open_unless(self._version)
        except CredentialUnusable as problem:
            if self._current is None:
                raise Lost("CREDENTIAL_UNUSABLE", str(problem)) from None
            # An update in progress, or a broken one: the old connection is still authenticated by the last good SVID.
            if self._refused != str(problem):
                self._refused = str(problem)
                _LOG.warning("the changed credential cannot be used, the last good one stays: %s", problem)
            return self._current
        if opened is not None:
            replaced, self._current = self._current, Connection(opened, on_unclaimed=self._on_unclaimed)
            self._version = opened.version
            self._refused = ""
            if replaced is not None:
                self._retire(replaced)
        if self._current is None:
            raise AssertionError("a credential that was never opened cannot be unchanged")
        return self._current

    def _release(self, connection: Connection) -> None:
        connection.calls -= 1
        self._close_if_idle(connection)

    def _retire(self, connection: Connection) -> None:
        self._retired.add(connection)
        self._close_if_idle(connection)

    def _close_if_idle(self, connection: Connection) -> None:
        if connection.calls == 0 and connection in self._retired:
            self._retired.discard(connection)
            task = asyncio.create_task(connection.close(Lost("UNAVAILABLE", "the connection was replaced")))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
