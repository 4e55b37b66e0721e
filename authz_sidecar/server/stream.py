"""Many decisions over one stream: half the latency of unary calls, and no less checked.

The caller is identified anew for every message, so a stream never outlives an SVID or a withdrawn bundle. A request
that is wrong gets its own error and the stream goes on; a caller that is no longer identified ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import perf_counter

import grpc

from authz_sidecar.errors import CredentialError
from authz_sidecar.identity.subject import Subject
from authz_sidecar.server import status
from authz_sidecar.server.identify import Context, IdentifyNow
from authz_sidecar.server.rpc import Guard, Method
from authz_sidecar.v1 import authorization_pb2

# For the end of a stream to reach its client.
_LINGER_SECONDS = 0.25

Decide = Callable[[Subject, authorization_pb2.AuthorizeRequest], Awaitable[authorization_pb2.AuthorizeResponse]]


class AuthorizeStream:
    """Serves `AuthorizeStream`. `drain()` ends every open stream after its calls in progress were answered."""

    def __init__(self, decide: Decide, *, window: int) -> None:
        """`window`: undecided messages of one stream; more stay in the transport, which slows the sender down."""
        self._decide = decide
        self._limit = window
        self._open: set[_Stream] = set()
        self._draining = False
        self._all_ended = asyncio.Event()

    async def drain(self, timeout_seconds: float) -> None:
        """Stop reading from all streams, and let each end after its answers. Clients reconnect to whoever serves then.

        Returns a moment after the last one ended, or at the timeout. Without that moment the connection would be closed
        under clients that still send, who then lose answers that have reached them.
        """
        self._draining = True
        if not self._open:
            return
        for stream in self._open:
            stream.stop_reading()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_ended.wait(), timeout_seconds)
        await asyncio.sleep(_LINGER_SECONDS)

    async def __call__(self, guard: Guard, method: Method, context: Context) -> None:
        caller = guard.identify.caller(context)
        guard.roles.require(method.name, method.rule, caller())
        stream = _Stream(guard, method, context, caller, decide=self._decide, window=self._limit)
        self._open.add(stream)
        try:
            if not self._draining:
                await stream.serve()
        finally:
            self._open.discard(stream)
            if self._draining and not self._open:
                self._all_ended.set()


class _Stream:
    """One open stream."""

    def __init__(
        self, guard: Guard, method: Method, context: Context, caller: IdentifyNow, *, decide: Decide, window: int
    ) -> None:
        self._guard = guard
        self._method = method
        self._context = context
        self._caller = caller
        self._decide = decide
        self._calls: set[asyncio.Task[None]] = set()
        self._window = asyncio.Semaphore(window)
        # gRPC allows one write at a time.
        self._writing = asyncio.Lock()
        self._reading: asyncio.Task[object] | None = None
        self._stopped = asyncio.Event()
        self._ended_by: CredentialError | None = None

    def stop_reading(self) -> None:
        self._stopped.set()
        if self._reading is not None:
            self._reading.cancel()

    async def serve(self) -> None:
        """Read until the client is done, the stream is drained, or the caller is no longer identified.

        Raises the CredentialError that ended the stream.
        """
        try:
            while (raw := await self._next()) is not None:
                call = asyncio.create_task(self._answer(raw))
                self._calls.add(call)
                call.add_done_callback(self._answered)
            if self._calls:
                await asyncio.wait(self._calls)
        finally:
            for call in self._calls:
                call.cancel()
        if self._ended_by is not None:
            raise self._ended_by

    async def _next(self) -> bytes | None:
        """The next message, or None when there is none to wait for."""
        await self._window.acquire()
        if self._stopped.is_set():
            return None
        self._reading = reading = asyncio.create_task(self._read())
        try:
            raw = await reading
        except asyncio.CancelledError:
            if not self._stopped.is_set():
                raise
            return None
        return raw if isinstance(raw, bytes) else None

    async def _read(self) -> object:
        return await self._context.read()

    def _answered(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._window.release()
        if not call.cancelled() and call.exception() is not None:
            # The answer could not be written: the connection is gone, and so is the stream.
            self.stop_reading()

    async def _answer(self, raw: bytes) -> None:
        """Decide about one message. Every way out writes an answer or ends the stream."""
        request_id, started = "", perf_counter()
        try:
            subject = self._caller()
            message = self._method.parse(raw)
            if not isinstance(message, authorization_pb2.AuthorizeStreamRequest):
                raise TypeError(f"unexpected request type {type(message).__name__}")
            request_id = message.request.request_id
            with self._guard.admission.slot():
                response = await self._decide(subject, message.request)
            await self._write(authorization_pb2.AuthorizeStreamResponse(request_id=request_id, response=response))
        except CredentialError as error:
            self._ended_by = error
            self.stop_reading()
        except (asyncio.CancelledError, grpc.aio.UsageError):
            raise
        except Exception as error:
            shown = status.to_message(self._guard.failed(self._method, error))
            await self._write(authorization_pb2.AuthorizeStreamResponse(request_id=request_id, error=shown))
        finally:
            self._guard.metrics.observe_rpc(self._method.name, started)

    async def _write(self, response: authorization_pb2.AuthorizeStreamResponse) -> None:
        async with self._writing:
            await self._context.write(response.SerializeToString())
