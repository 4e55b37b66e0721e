"""A load generator that treats every server the same: mutual TLS on a Unix socket, the same messages."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from authz_sidecar.v1 import authorization_pb2, authorization_pb2_grpc

Call = Callable[[authorization_pb2.AuthorizeRequest], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement. Latencies in milliseconds."""

    calls: int
    seconds: float
    p50: float
    p99: float

    @property
    def throughput(self) -> float:
        return self.calls / self.seconds


@dataclass(frozen=True, slots=True)
class Target:
    """A server to measure: its socket and the credentials of the caller."""

    name: str
    socket: Path
    certificate: Path
    key: Path
    bundle: Path

    def channel(self) -> grpc.aio.Channel:
        credentials = grpc.ssl_channel_credentials(
            self.bundle.read_bytes(), self.key.read_bytes(), self.certificate.read_bytes()
        )
        options = [("grpc.ssl_target_name_override", "authz-sidecar"), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.secure_channel(f"unix:{self.socket}", credentials, options=options)


@asynccontextmanager
async def unary(target: Target) -> AsyncIterator[Call]:
    """One RPC per call."""
    async with target.channel() as channel:
        stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)

        async def call(request: authorization_pb2.AuthorizeRequest) -> None:
            _check(target, await stub.Authorize(request, timeout=30))

        yield call


@asynccontextmanager
async def stream(target: Target) -> AsyncIterator[Call]:
    """All calls multiplexed over one stream, matched by request id."""
    async with target.channel() as channel:
        stub = authorization_pb2_grpc.AuthorizationServiceStub(channel)
        waiting: dict[str, asyncio.Future[authorization_pb2.AuthorizeStreamResponse]] = {}
        session = stub.AuthorizeStream()
        writing = asyncio.Lock()

        async def receive() -> None:
            while True:
                answer = await session.read()
                if answer is grpc.aio.EOF:
                    return
                waiting.pop(answer.request_id).set_result(answer)

        async def call(request: authorization_pb2.AuthorizeRequest) -> None:
            future = asyncio.get_running_loop().create_future()
            waiting[request.request_id] = future
            async with writing:
                await session.write(authorization_pb2.AuthorizeStreamRequest(request=request))
            answer = await future
            if answer.HasField("error"):
                raise RuntimeError(f"{target.name}: {answer.error.reason}: {answer.error.message}")
            _check(target, answer.response)

        receiver = asyncio.create_task(receive())
        yield call
        await session.done_writing()
        receiver.cancel()


MODES: dict[str, Callable[[Target], AbstractAsyncContextManager[Call]]] = {"unary": unary, "stream": stream}


async def measure(
    call: Call, make: Callable[[], authorization_pb2.AuthorizeRequest], *, callers: int, seconds: float
) -> Figures:
    """Closed loop: each caller asks again as soon as it was answered."""
    latencies: list[float] = []
    stop = time.perf_counter() + seconds

    async def caller() -> None:
        while time.perf_counter() < stop:
            started = time.perf_counter()
            await call(make())
            latencies.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    elapsed = time.perf_counter() - started
    latencies.sort()
    return Figures(
        calls=len(latencies),
        seconds=elapsed,
        p50=latencies[len(latencies) // 2] * 1000,
        p99=latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))] * 1000,
    )


def requests(task_id: str, run: str) -> Callable[[], authorization_pb2.AuthorizeRequest]:
    """The same permitted read again and again, each under its own request id."""
    counter = itertools.count()

    def make() -> authorization_pb2.AuthorizeRequest:
        return authorization_pb2.AuthorizeRequest(
            request_id=f"{run}-{next(counter)}",
            task_id=task_id,
            tool_server="crm",
            tool_name="read_contact",
            arguments_json=b'{"contact_id":"c-1001"}',
            tool_call_id="call_1",
            traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )

    return make


def _check(target: Target, response: authorization_pb2.AuthorizeResponse) -> None:
    if not response.token.value:
        raise RuntimeError(f"{target.name}: no token: {response.reason_code}")
