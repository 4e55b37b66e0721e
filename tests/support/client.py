"""A sidecar that says what it is told to, and notes what it was asked: the peer of every client test.

It keeps the laws that the client relies on: one request id has one decision, whichever stream it arrives on, and other
content under the same id is an error; only decisions that were made can get an outcome.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from authz_sidecar.client import AsyncClient, AsyncTask, Client, Initiator, SvidFiles, Task
from authz_sidecar.v1 import (
    authorization_pb2,
    authorization_pb2_grpc,
    common_pb2,
    task_pb2,
    task_pb2_grpc,
)
from tests.support.identity import Authority, Leaf, key_pem, pem

T = TypeVar("T")
Request = authorization_pb2.AuthorizeRequest
Response = authorization_pb2.AuthorizeResponse
Answer = authorization_pb2.AuthorizeStreamResponse

JWT = "e30.e30.c2ln"
UNARY = 0
THUMBPRINT = "A" * 43
AGENT = "spiffe://example.org/agent"


class DropStream(Exception):
    """The connection breaks, or the sidecar ends the stream with this status."""

    def __init__(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        self.code = code


@dataclass(frozen=True)
class Seen:
    """One message as it arrived."""

    request: Request
    stream: int
    certificate: bytes
    authorization: str

    @property
    def tool(self) -> str:
        return f"{self.request.tool_server}/{self.request.tool_name}"


Behaviour = Callable[["FakeSidecar", Request], Awaitable[Answer | None]]


def permit(*, ttl: timedelta = timedelta(minutes=1), change: Callable[[Response], object] | None = None) -> Behaviour:
    def decision(sidecar: FakeSidecar, request: Request) -> Response:
        response = Response(
            request_id=request.request_id,
            decision_id=f"d-{request.request_id}",
            outcome=common_pb2.OUTCOME_PERMIT,
            reason_code="permitted",
            resource="crm:contact/42",
            policy_digest="sha256:" + "0" * 64,
            position=common_pb2.LedgerPosition(log="test", index=len(sidecar.decisions)),
            token=authorization_pb2.Token(
                value=f"token-for-{request.request_id}",
                jti=f"j-{request.request_id}",
                audience=request.audience or "https://crm.example",
                expires_at=timestamp(datetime.now(UTC) + ttl),
            ),
        )
        if change is not None:
            change(response)
        return response

    return decided(decision)


def deny(reason_code: str = "no_permit") -> Behaviour:
    return decided(
        lambda _sidecar, request: Response(
            request_id=request.request_id,
            decision_id=f"d-{request.request_id}",
            outcome=common_pb2.OUTCOME_DENY,
            reason_code=reason_code,
            determining_policies=[
                common_pb2.DeterminingPolicy(id="p-1", effect="forbid", tier="hard", reason="not after hours")
            ],
        )
    )


def approval() -> Behaviour:
    return decided(
        lambda _sidecar, request: Response(
            request_id=request.request_id,
            decision_id=f"d-{request.request_id}",
            outcome=common_pb2.OUTCOME_APPROVAL_REQUIRED,
            reason_code="approval_required",
            approval_id="a-1",
        )
    )


def decided(decide: Callable[[FakeSidecar, Request], Response]) -> Behaviour:
    """Decide once per request id, and recall afterwards."""

    async def behave(sidecar: FakeSidecar, request: Request) -> Answer:
        key, content = request.request_id, request.SerializeToString(deterministic=True)
        if key not in sidecar.decisions:
            sidecar.decisions[key] = (content, decide(sidecar, request))
        elif sidecar.decisions[key][0] != content:
            return Answer(request_id=key, error=failure(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"))
        else:
            sidecar.decisions[key][1].recalled = True
        return Answer(request_id=key, response=sidecar.decisions[key][1])

    return behave


def error(code: grpc.StatusCode, reason: str, message: str = "told so", *fields: str) -> Behaviour:
    return says(lambda request: Answer(request_id=request.request_id, error=failure(code, reason, message, *fields)))


def says(answer: Callable[[Request], Answer]) -> Behaviour:
    async def behave(_sidecar: FakeSidecar, request: Request) -> Answer:
        return answer(request)

    return behave


def hang() -> Behaviour:
    async def behave(_sidecar: FakeSidecar, _request: Request) -> None:
        await asyncio.Event().wait()

    return behave


def drop(code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, *, after: Behaviour | None = None) -> Behaviour:
    """Break the stream, before or after deciding."""

    async def behave(sidecar: FakeSidecar, request: Request) -> Answer | None:
        if after is not None:
            await after(sidecar, request)
        raise DropStream(code)

    return behave


class Gate:
    """Holds calls until it is opened, from any thread."""

    def __init__(self, then: Behaviour) -> None:
        self._then = then
        self._opened = threading.Event()
        self.waiting = 0

    def open(self) -> None:
        self._opened.set()

    async def __call__(self, sidecar: FakeSidecar, request: Request) -> Answer | None:
        self.waiting += 1
        await eventually_async(self._opened.is_set)
        return await self._then(sidecar, request)


class Backwards:
    """Holds calls until `count` of them arrived, then answers the last one first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._turns: list[asyncio.Event] = []

    async def __call__(self, sidecar: FakeSidecar, request: Request) -> Answer | None:
        turn = asyncio.Event()
        self._turns.append(turn)
        if len(self._turns) == self._count:
            turn.set()
        await turn.wait()
        self._turns.remove(turn)
        if self._turns:
            self._turns[-1].set()
        return await permit()(sidecar, request)


def failure(code: grpc.StatusCode, reason: str, message: str = "told so", *fields: str) -> common_pb2.Error:
    violations = [common_pb2.FieldViolation(field=name, description="is wrong") for name in fields]
    return common_pb2.Error(code=code.value[0], reason=reason, message=message, field_violations=violations)


def timestamp(moment: datetime) -> Timestamp:
    value = Timestamp()
    value.FromDatetime(moment)
    return value


@dataclass
class FakeSidecar:
    """Serves one address, usually a Unix socket, from a thread of its own."""

    address: str
    credentials: grpc.ServerCredentials | None = None
    seen: list[Seen] = field(default_factory=list)
    outcomes: list[authorization_pb2.ReportOutcomeRequest] = field(default_factory=list)
    decisions: dict[str, tuple[bytes, Response]] = field(default_factory=dict)
    tasks: dict[str, task_pb2.Task] = field(default_factory=dict)
    started: list[task_pb2.StartTaskRequest] = field(default_factory=list)
    unary_failures: dict[str, list[common_pb2.Error]] = field(default_factory=dict)
    contradictions: list[str] = field(default_factory=list)
    streams: int = 0
    open_streams: int = 0
    refused: common_pb2.Error | None = None

    def __post_init__(self) -> None:
        self._scripts: dict[str, list[Behaviour]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: grpc.aio.Server | None = None
        self.target = self.address
        self.start()

    def on(self, tool: str, *behaviours: Behaviour) -> None:
        """What happens to the calls of a tool, one after the other; the last one stays."""
        self._scripts[tool] = list(behaviours)

    def start(self) -> None:
        self._run(self._start())

    def stop(self) -> None:
        """Break every connection, as a killed process would."""
        self._run(self._stop())

    def shut_down(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _start(self) -> None:
        server = grpc.aio.server()
        authorization_pb2_grpc.add_AuthorizationServiceServicer_to_server(_Authorization(self), server)  # type: ignore[abstract]
        task_pb2_grpc.add_TaskServiceServicer_to_server(_Tasks(self), server)  # type: ignore[abstract]
        if self.credentials is None:
            server.add_insecure_port(self.target)
        else:
            port = server.add_secure_port(self.target, self.credentials)
            self.target = self.target.replace(":0", f":{port}")
        await server.start()
        self._server = server

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def behave(self, seen: Seen) -> Answer | None:
        self.seen.append(seen)
        script = self._scripts.get(seen.tool, [permit()])
        behaviour = script.pop(0) if len(script) > 1 else script[0]
        return await behaviour(self, seen.request)

    async def fail_if_told(self, method: str, context: Any) -> None:
        if failures := self.unary_failures.get(method):
            await _abort(context, failures.pop(0))


class _Authorization(authorization_pb2_grpc.AuthorizationServiceServicer):
    def __init__(self, sidecar: FakeSidecar) -> None:
        self._sidecar = sidecar

    async def AuthorizeStream(  # type: ignore[override]
        self, request_iterator: AsyncIterator[Any], context: Any
    ) -> None:
        sidecar = self._sidecar
        sidecar.streams += 1
        number = sidecar.streams
        if sidecar.refused is not None:
            await _abort(context, sidecar.refused)
        dropped: asyncio.Future[grpc.StatusCode] = asyncio.get_running_loop().create_future()
        writing = asyncio.Lock()

        async def answer(request: Request) -> None:
            try:
                found = await sidecar.behave(_seen(request, number, context))
            except DropStream as drop:
                if not dropped.done():
                    dropped.set_result(drop.code)
                return
            if found is not None:
                async with writing:
                    await context.write(found)

        async def read() -> None:
            async for message in request_iterator:
                calls.append(asyncio.create_task(answer(message.request)))

        calls: list[asyncio.Task[None]] = [asyncio.create_task(read())]
        sidecar.open_streams += 1
        try:
            ended: list[asyncio.Future[Any]] = [calls[0], dropped]
            await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
            # gRPC refuses to end a call during a write, and then never ends it.
            async with writing:
                for call in calls:
                    call.cancel()
                if dropped.done() and dropped.result() is not grpc.StatusCode.OK:
                    await context.abort(dropped.result(), "told to end")
        finally:
            sidecar.open_streams -= 1
            for call in calls:
                call.cancel()

    async def Authorize(self, request: Any, context: Any) -> Response:
        if self._sidecar.refused is not None:
            await _abort(context, self._sidecar.refused)
        try:
            answer = await self._sidecar.behave(_seen(request, UNARY, context))
        except DropStream:
            answer = None
        if answer is None or not answer.HasField("response"):
            told = answer is not None and answer.error.code != 0
            await _abort(context, answer.error if told and answer else failure(grpc.StatusCode.UNAVAILABLE, ""))
        return answer.response

    async def ReportOutcome(self, request: Any, context: Any) -> authorization_pb2.ReportOutcomeResponse:
        await self._sidecar.fail_if_told("ReportOutcome", context)
        known = {decision.decision_id for _, decision in self._sidecar.decisions.values()}
        if request.decision_id not in known:
            await _abort(context, failure(grpc.StatusCode.NOT_FOUND, "RECORD_NOT_FOUND"))
        self._sidecar.outcomes.append(request)
        return authorization_pb2.ReportOutcomeResponse(contradictions=self._sidecar.contradictions)


class _Tasks(task_pb2_grpc.TaskServiceServicer):
    def __init__(self, sidecar: FakeSidecar) -> None:
        self._sidecar = sidecar

    async def StartTask(self, request: Any, context: Any) -> task_pb2.StartTaskResponse:
        sidecar = self._sidecar
        sidecar.started.append(request)
        await sidecar.fail_if_told("StartTask", context)
        if request.purpose == "world domination":
            policy = common_pb2.DeterminingPolicy(id="p-9", effect="forbid", tier="hard", reason="no")
            return task_pb2.StartTaskResponse(
                outcome=common_pb2.OUTCOME_DENY, reason_code="forbidden_by_policy", determining_policies=[policy]
            )
        now = datetime.now(UTC)
        task = task_pb2.Task(
            task_id=f"t-{request.request_id}",
            agent=AGENT,
            state=common_pb2.TASK_STATE_ACTIVE,
            purpose=request.purpose,
            scope=request.scope,
            started_at=timestamp(now),
            expires_at=timestamp(now + timedelta(hours=1)),
            environment="test",
        )
        task = sidecar.tasks.setdefault(task.task_id, task)
        return task_pb2.StartTaskResponse(outcome=common_pb2.OUTCOME_PERMIT, reason_code="permitted", task=task)

    async def GetTask(self, request: Any, context: Any) -> task_pb2.GetTaskResponse:
        await self._sidecar.fail_if_told("GetTask", context)
        return task_pb2.GetTaskResponse(task=await self._find(request.task_id, context))

    async def CompleteTask(self, request: Any, context: Any) -> task_pb2.CompleteTaskResponse:
        task = await self._find(request.task_id, context)
        if task.state != common_pb2.TASK_STATE_ACTIVE:
            await _abort(context, failure(grpc.StatusCode.FAILED_PRECONDITION, "TASK_NOT_ACTIVE"))
        task.state = common_pb2.TASK_STATE_COMPLETED
        await self._sidecar.fail_if_told("CompleteTask", context)
        return task_pb2.CompleteTaskResponse(task=task)

    async def _find(self, task_id: str, context: Any) -> task_pb2.Task:
        if task_id not in self._sidecar.tasks:
            await _abort(context, failure(grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND"))
        return self._sidecar.tasks[task_id]


def _seen(request: Request, stream: int, context: Any) -> Seen:
    certificate = bytes(next(iter(context.auth_context().get("x509_pem_cert", [])), b""))
    metadata = dict(context.invocation_metadata())
    return Seen(request, stream, certificate, str(metadata.get("authorization", "")))


async def _abort(context: Any, shown: common_pb2.Error) -> NoReturn:
    code = next(code for code in grpc.StatusCode if code.value[0] == shown.code)
    await context.abort(code, shown.message, (("authz-error-bin", shown.SerializeToString()),))
    raise AssertionError("abort always raises")


@contextmanager
def fake_sidecar(
    credentials: grpc.ServerCredentials | None = None, *, address: str | None = None
) -> Iterator[FakeSidecar]:
    # Socket paths are limited to 107 bytes, which a test's own directory can exceed.
    with tempfile.TemporaryDirectory(prefix="az-", dir="/tmp") as directory:
        sidecar = FakeSidecar(address or f"unix:{directory}/s", credentials)
        try:
            yield sidecar
        finally:
            sidecar.shut_down()


def async_client(sidecar: FakeSidecar, **changes: Any) -> AsyncClient:
    """A client that authenticates by a JWT-SVID, unless `svid` is given."""
    return AsyncClient(sidecar.target, **_credential(changes))


def sync_client(sidecar: FakeSidecar, **changes: Any) -> Client:
    return Client(sidecar.target, **_credential(changes))


async def start(client: AsyncClient, purpose: str = "answer a ticket", **changes: Any) -> AsyncTask:
    return await client.start_task(purpose, **_scope(changes))


def start_sync(client: Client, purpose: str = "answer a ticket", **changes: Any) -> Task:
    return client.start_task(purpose, **_scope(changes))


def _scope(changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "initiator": Initiator("human", "alice"),
        "tools": ["crm/read_contact"],
        "resources": ["crm:contact/*"],
        "ceiling": "internal",
        **changes,
    }


def _credential(changes: dict[str, Any]) -> dict[str, Any]:
    if "svid" not in changes:
        changes = {"jwt_svid": lambda: JWT, "proof_key_thumbprint": THUMBPRINT, **changes}
    return {"timeout": timedelta(seconds=3), **changes}


@dataclass(frozen=True)
class TlsFixture:
    """A trust domain with a sidecar's credentials and an agent's SVID files, which can be rotated."""

    directory: Path
    authority: Authority

    @classmethod
    def create(cls, directory: Path) -> TlsFixture:
        now = datetime.now(UTC)
        day = timedelta(days=1)
        return cls(directory, Authority.root(not_before=now - day, not_after=now + day))

    @property
    def files(self) -> SvidFiles:
        return SvidFiles(self.directory / "svid.pem", self.directory / "svid_key.pem", self.directory / "bundle.pem")

    def server_credentials(self, name: str = "authz-sidecar") -> grpc.ServerCredentials:
        leaf = self.leaf("spiffe://example.org/authz-sidecar", name)
        return grpc.ssl_server_credentials(
            [(leaf.key_pem, leaf.chain_pem)], pem(self.authority.certificate), require_client_auth=True
        )

    def leaf(self, spiffe_id: str = AGENT, *dns: str) -> Leaf:
        now = datetime.now(UTC)
        return self.authority.leaf(
            spiffe_id, dns=dns, not_before=now - timedelta(minutes=1), not_after=now + timedelta(hours=1)
        )

    def rotate(self) -> bytes:
        """Write a new SVID; returns its leaf in PEM."""
        leaf = self.leaf()
        replace(Path(self.files.cert), leaf.chain_pem)
        replace(Path(self.files.key), key_pem(leaf.key))
        replace(Path(self.files.bundle), pem(self.authority.certificate))
        return leaf.pem


def replace(path: Path, content: bytes) -> None:
    """Write as rotating agents do: the new file takes the old one's name."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(path)


def eventually(holds: Callable[[], bool], *, within_s: float = 5.0) -> None:
    """Wait for something that happens on another thread."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


async def eventually_async(holds: Callable[[], bool], *, within_s: float = 5.0) -> None:
    """The same without blocking the event loop."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)
