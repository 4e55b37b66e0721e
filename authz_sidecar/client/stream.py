"""Many calls over one AuthorizeStream, matched by request id, answered in any order.

A stream is used until it is lost and never repaired; whoever waits on it asks again on the next one. Because a request
id is an idempotency key, asking again cannot be decided twice.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TypeAlias

import grpc

from authz_sidecar.client.errors import RequestRejected
from authz_sidecar.client.failures import Failure, Lost, again, from_status
from authz_sidecar.v1 import authorization_pb2

Answer: TypeAlias = authorization_pb2.AuthorizeStreamResponse
_Call: TypeAlias = grpc.aio.StreamStreamCall[authorization_pb2.AuthorizeStreamRequest, Answer]

# Answers that are still expected although nobody waits for them any more. Beyond this the oldest are forgotten, and an
# answer to a forgotten request costs a reconnection.
_MOST_ABANDONED = 1024

# How long the sidecar may take to end a stream that the client has closed.
_CLOSING_S = 0.5


class AuthorizeStream:
    """One open stream. Must be made and used on one event loop."""

    def __init__(self, call: _Call, *, on_unclaimed: Callable[[Answer], None]) -> None:
        """`on_unclaimed` gets the answers that come after their caller stopped waiting: permits still owe outcomes."""
        self._call = call
        self._on_unclaimed = on_unclaimed
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, asyncio.Future[Answer | Failure]] = {}
        self._abandoned: dict[str, None] = {}
        self._outgoing: asyncio.Queue[authorization_pb2.AuthorizeRequest | None] = asyncio.Queue()
        self._ended: Failure | None = None
        self._answered = False
        self.last_heard = -math.inf
        self._writer = self._loop.create_task(self._write())
        self._reader = self._loop.create_task(self._read())

    @property
    def ended(self) -> bool:
        """True when no more answers will come: a new stream is needed."""
        return self._ended is not None

    async def ask(self, request: authorization_pb2.AuthorizeRequest) -> Answer:
        """Send one request and wait for its answer, for as long as it takes.

        Raises Lost when the stream ends first, and RequestRejected when it was refused as a whole.
        """
        if self._ended is not None:
            raise again(self._ended)
        key = request.request_id
        if key in self._waiting or key in self._abandoned:
            raise RequestRejected("REQUEST_ID_REUSED", "the request id generator gave an id that is still in use")
        pending: asyncio.Future[Answer | Failure] = self._loop.create_future()
        self._waiting[key] = pending
        self._outgoing.put_nowait(request)
        try:
            answer = await pending
        except asyncio.CancelledError:
            self._abandon(key, pending)
            raise
        finally:
            self._waiting.pop(key, None)
        if isinstance(answer, Answer):
            return answer
        raise answer

    async def close(self, reason: Failure) -> None:
        """End the stream; whoever still waits gets `reason`.

        The sidecar is given a moment to end its side: a call that is cancelled leaves events behind in gRPC, for an
        event loop that may be closed by then (grpc/grpc#25364).
        """
        if self._ended is None:
            self._release(reason)
            self._outgoing.put_nowait(None)
            await asyncio.wait([self._reader], timeout=_CLOSING_S)
        self._reader.cancel()
        await asyncio.gather(self._writer, self._reader, return_exceptions=True)

    def _abandon(self, key: str, pending: asyncio.Future[Answer | Failure]) -> None:
        if not pending.cancelled():
            # The answer arrived in the same turn of the loop as the cancellation.
            if isinstance(answer := pending.result(), Answer):
                self._on_unclaimed(answer)
        elif key in self._waiting:
            while len(self._abandoned) >= _MOST_ABANDONED:
                del self._abandoned[next(iter(self._abandoned))]
            self._abandoned[key] = None

    async def _write(self) -> None:
        """The only task that writes: gRPC allows one write at a time, and cancelling a write cancels the stream."""
        try:
            while (request := await self._outgoing.get()) is not None:
                pending = self._waiting.get(request.request_id)
                if pending is None or pending.done():
                    # Given up before it was sent, so no answer will come.
                    self._waiting.pop(request.request_id, None)
                    self._abandoned.pop(request.request_id, None)
                    continue
                await self._call.write(authorization_pb2.AuthorizeStreamRequest(request=request))
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the reader tells why
        except Exception:
            self._call.cancel()
            raise

    async def _read(self) -> None:
        ended: Failure = Lost("UNAVAILABLE", "the stream was closed")
        try:
            while isinstance(message := await self._call.read(), Answer):
                self._deliver(message)
            if message is not grpc.aio.EOF:
                ended = Lost("UNAVAILABLE", "the sidecar sent something that is not an answer")
        except Lost as violation:
            ended = violation
        except grpc.aio.AioRpcError as error:
            ended = self._meaning(error)
        finally:
            self._end(ended)

    def _deliver(self, message: Answer) -> None:
        """Raises Lost for an answer to something that was never asked: such a stream may be out of step."""
        self.last_heard = self._loop.time()
        self._answered = True
        key = message.request_id
        pending = self._waiting.pop(key, None)
        if pending is not None and not pending.done():
            pending.set_result(message)
        elif pending is not None or key in self._abandoned or self.ended:
            self._abandoned.pop(key, None)
            self._on_unclaimed(message)
        else:
            raise Lost("UNAVAILABLE", "the sidecar answered a request that was not open")

    def _meaning(self, error: grpc.aio.AioRpcError) -> Failure:
        """A refused stream refuses its requests. One that worked, and then ends, is opened again before that counts:

        a long-lived stream ends when the credential it was opened with does.
        """
        failure = from_status(error)
        if isinstance(failure, RequestRejected) and not self._answered:
            return failure
        return Lost(failure.reason, failure.message)

    def _end(self, failure: Failure) -> None:
        """No more answers will be read."""
        if self._ended is None:
            self._release(failure)
        self._writer.cancel()
        self._call.cancel()

    def _release(self, failure: Failure) -> None:
        """Whoever waits stops waiting."""
        self._ended = failure
        for pending in self._waiting.values():
            if not pending.done():
                pending.set_result(again(failure))
