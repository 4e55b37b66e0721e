"""One answer per request, within a deadline, whatever happens to streams, channels and certificates meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from authz_sidecar.client.connection import Connection, Connections
from authz_sidecar.client.credentials import ChannelSource
from authz_sidecar.client.errors import SidecarUnavailable
from authz_sidecar.client.failures import Lost, from_message, from_status, invalid_answer
from authz_sidecar.client.stream import Answer
from authz_sidecar.v1 import authorization_pb2

T = TypeVar("T")
Req = TypeVar("Req")
Resp = TypeVar("Resp")

_FIRST_DELAY_S = 0.02
_LONGEST_DELAY_S = 0.5


class Transport:
    """Sends requests until they are answered or their time is up.

    Every request that it sends is idempotent, so that a lost one is sent again as it is. A definite answer, good or
    bad, is never asked for twice.
    """

    def __init__(self, source: ChannelSource, *, timeout_s: float, on_unclaimed: Callable[[Answer], None]) -> None:
        self._connections = Connections(source, on_unclaimed=on_unclaimed)
        self._timeout_s = timeout_s
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def authorize(self, request: authorization_pb2.AuthorizeRequest) -> authorization_pb2.AuthorizeResponse:
        """Ask for a decision. Raises RequestRejected and SidecarUnavailable."""

        over_stream = True

        async def ask(connection: Connection, remaining: float) -> authorization_pb2.AuthorizeResponse:
            nonlocal over_stream
            if not over_stream:
                over_stream = True
                return await _once(connection.authorization.Authorize, request, connection, remaining)
            try:
                answer = await connection.stream().ask(request)
            except Lost as lost:
                # A write that comes after the end of a stream makes grpc.aio forget why it ended (grpc/grpc#36066). A
                # unary call cannot be hit by that, and tells.
                over_stream = lost.reason != grpc.StatusCode.INTERNAL.name
                raise
            match answer.WhichOneof("answer"):
                case "response":
                    return answer.response
                case "error":
                    raise from_message(answer.error)
                case _:
                    raise invalid_answer("an answer that is neither a decision nor an error")

        return await self._until_answered(ask)

    async def call(
        self, method: Callable[[Connection], grpc.aio.UnaryUnaryMultiCallable[Req, Resp]], request: Req
    ) -> Resp:
        """Make a unary call. Raises RequestRejected and SidecarUnavailable."""

        async def ask(connection: Connection, remaining: float) -> Resp:
            return await _once(method(connection), request, connection, remaining)

        return await self._until_answered(ask)

    async def close(self) -> None:
        """End everything. Calls in progress get SidecarUnavailable. Does nothing in a forked child."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        await self._connections.close(SidecarUnavailable("CLIENT_CLOSED", "the client was closed"))

    async def _until_answered(self, ask: Callable[[Connection, float], Awaitable[T]]) -> T:
        self._check_usable()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        lost = Lost("DEADLINE_EXCEEDED", "the sidecar did not answer")
        delay = _FIRST_DELAY_S
        waiting_on: Connection | None = None
        asked = deadline
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    try:
                        with self._connections.lease() as waiting_on:
                            asked = loop.time()
                            return await ask(waiting_on, deadline - asked)
                    except Lost as error:
                        lost = error
                        waiting_on = None
                    await asyncio.sleep(delay)
                    delay = min(2 * delay, _LONGEST_DELAY_S)
                    self._check_usable()
        except TimeoutError:
            if waiting_on is not None and waiting_on.last_heard < asked:
                # Nobody was answered while this request waited: the connection may be dead without knowing it.
                self._connections.discard(waiting_on, linger_s=self._timeout_s)
            raise SidecarUnavailable(lost.reason, f"no answer within {self._timeout_s:g} s: {lost.message}") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                # gRPC reports a call on a closed channel as a cancellation of whoever waits for it.
                raise SidecarUnavailable("CLIENT_CLOSED", "the client was closed") from None
            raise

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise SidecarUnavailable("FORKED", "this client was made before a fork; make one in each process")
        if self._closed:
            raise SidecarUnavailable("CLIENT_CLOSED", "the client was closed")
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        if self._loop is not loop:
            raise SidecarUnavailable(
                "WRONG_EVENT_LOOP", "this client was used on another event loop; make one for each, or use `Client`"
            )


async def _once(
    method: grpc.aio.UnaryUnaryMultiCallable[Req, Resp], request: Req, connection: Connection, timeout_s: float
) -> Resp:
    try:
        return await method(request, timeout=timeout_s, metadata=connection.metadata)
    except grpc.aio.AioRpcError as error:
        raise from_status(error) from None
