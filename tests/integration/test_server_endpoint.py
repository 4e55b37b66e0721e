"""The endpoint of the real process: one owner, bounded requests, shed load, and a stop that loses nothing."""

from __future__ import annotations

import json
import queue
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import pytest

from authz_sidecar.ledger.filters import QueryFilter
from authz_sidecar.ledger.reader import LedgerReader
from authz_sidecar.v1 import authorization_pb2, common_pb2, task_pb2
from tests.support.sidecar import (
    Caller,
    Sidecar,
    World,
    authorize,
    copy_of,
    error_of,
    failure,
    refused,
    running,
    start_task,
    world,
)

SECONDS = 20


@pytest.fixture(scope="module")
def template() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.fixture
def made(template: World) -> Iterator[World]:
    with copy_of(template) as copy:
        yield copy


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_nobody_takes_an_endpoint_over_while_its_owner_serves(made: World) -> None:
    tcp = f'{{address: "127.0.0.1:{free_port()}", auth: mtls}}'
    ours = f'listeners=[{{address: "unix:run/authz.sock", auth: mtls}}, {tcp}]'
    with running(made, ours) as first, Caller(made) as caller:
        task_id = caller.start_task()
        for overrides, says in (
            ([], f"another sidecar serves `{made.socket}` (it holds `{made.socket}.lock`)"),
            (['listeners=[{address: "unix:run/2.sock", auth: mtls}]'], f"in use by process {first.process.pid}"),
            ([f"listeners=[{tcp}]", "ledger.directory=other"], "cannot listen on `127.0.0.1:"),
        ):
            ended = refused(made, *overrides)
            assert ended.returncode == 3, ended.stderr
            assert says in ended.stderr
            # The owner's socket is still the owner's, for connections old and new.
            with Caller(made) as newcomer:
                assert newcomer.authorize(task_id).outcome == common_pb2.OUTCOME_PERMIT
            assert caller.authorize(task_id).outcome == common_pb2.OUTCOME_PERMIT
        assert first.stop() == 0


def test_a_socket_directory_that_everybody_can_write_to_is_refused(made: World) -> None:
    made.socket.parent.chmod(0o777)
    ended = refused(made)
    assert ended.returncode == 3
    assert f"socket directory `{made.socket.parent}` is writable by everyone" in ended.stderr
    assert "mode 0750" in ended.stderr
    assert not made.ledger.exists()


@dataclass
class Load:
    """Concurrent callers that keep the sidecar busy until it is gone, and note what they were answered."""

    made: World
    task_id: str
    answered: list[str] = field(default_factory=list)
    ended: list[grpc.StatusCode] = field(default_factory=list)

    def unary(self) -> None:
        with Caller(self.made) as caller:
            while True:
                try:
                    self.answered.append(caller.authorize(self.task_id).decision_id)
                except grpc.RpcError as error:
                    self.ended.append(error.code())
                    return

    def stream(self) -> None:
        window: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for _ in range(32):
            window.put("go")

        def requests() -> Iterator[authorization_pb2.AuthorizeStreamRequest]:
            while window.get() is not None:
                yield authorization_pb2.AuthorizeStreamRequest(request=authorize(self.task_id))

        with Caller(self.made) as caller:
            call = caller.authorization.AuthorizeStream(requests(), timeout=60)
            try:
                for answer in call:
                    self.answered.append(answer.response.decision_id)
                    window.put("go")
            except grpc.RpcError as error:
                self.ended.append(error.code())
            else:
                self.ended.append(grpc.StatusCode.OK)
            window.put(None)


def test_a_graceful_stop_answers_everything_that_it_decided(made: World) -> None:
    with running(made) as sidecar:
        with Caller(made) as caller:
            load = Load(made, caller.start_task())
        threads = [threading.Thread(target=target) for target in (load.unary, load.unary, load.stream, load.stream)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        assert sidecar.stop() == 0
        for thread in threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
    assert len(load.answered) > 50
    # A stream that was drained ended well; only calls that came afterwards found nobody.
    assert load.ended.count(grpc.StatusCode.OK) == 2
    assert set(load.ended) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    with LedgerReader.open(made.ledger) as reader:
        decided = [entry.record["id"] for entry in reader.query(QueryFilter(types=("decision",)))]
        newest = reader.entry(reader.size - 1)
    assert sorted(map(str, decided)) == sorted(load.answered)
    assert newest is not None
    assert newest.record["type"] == "sidecar_stopped"
    with running(made) as sidecar:
        assert sidecar.stop() == 0
    with LedgerReader.open(made.ledger) as reader:
        assert not list(reader.query(QueryFilter(types=("recovery",))))


def test_load_beyond_the_limit_is_shed_by_name_and_the_rest_is_served(made: World) -> None:
    with running(made, "limits.max_concurrent_rpcs=2") as sidecar, Caller(made) as caller:
        task_id = caller.start_task()
        requests = [authorize(task_id) for _ in range(64)]
        answers = list(
            caller.authorization.AuthorizeStream(
                iter([authorization_pb2.AuthorizeStreamRequest(request=one) for one in requests]), timeout=SECONDS
            )
        )
        assert sorted(answer.request_id for answer in answers) == sorted(one.request_id for one in requests)
        shed = [answer.error for answer in answers if answer.WhichOneof("answer") == "error"]
        permits = [answer.response for answer in answers if answer.WhichOneof("answer") == "response"]
        assert {error.reason for error in shed} == {"OVERLOADED"}
        assert {error.code for error in shed} == {grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]}
        assert "2 calls are in progress; back off" in shed[0].message
        assert {answer.outcome for answer in permits} == {common_pb2.OUTCOME_PERMIT}

        assert shed_unary(made, task_id) == "OVERLOADED"
        # Whoever backed off is served, under the same request id.
        again = authorize(task_id, request_id=shed_id(answers))
        assert caller.authorization.Authorize(again, timeout=SECONDS).outcome == common_pb2.OUTCOME_PERMIT
        assert sidecar.not_ready() == []


def shed_id(answers: list[authorization_pb2.AuthorizeStreamResponse]) -> str:
    return next(answer.request_id for answer in answers if answer.WhichOneof("answer") == "error")


def shed_unary(made: World, task_id: str) -> str:
    """The reason of the first unary call that is refused while many are in progress."""
    reasons: list[str] = []

    def hammer() -> None:
        with Caller(made) as caller:
            for _ in range(200):
                if reasons:
                    return
                try:
                    caller.authorize(task_id)
                except grpc.RpcError as error:
                    reasons.append(error_of(error).reason)

    threads = [threading.Thread(target=hammer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return reasons[0]


@pytest.fixture(scope="module")
def shared(template: World) -> Iterator[Sidecar]:
    with copy_of(template) as made, running(made) as sidecar:
        yield sidecar


@pytest.fixture
def caller(shared: Sidecar) -> Iterator[Caller]:
    with Caller(shared.world) as value:
        yield value


def oversized(task_id: str, size: int) -> authorization_pb2.AuthorizeRequest:
    return authorize(task_id, arguments=b'{"contact_id":"' + b"x" * size + b'"}')


def test_a_request_larger_than_its_rpc_allows_is_refused_by_name(caller: Caller) -> None:
    task_id = caller.start_task()
    calls = (
        lambda: caller.authorization.Authorize(oversized(task_id, 100_000), timeout=SECONDS),
        lambda: caller.tasks.GetTask(task_pb2.GetTaskRequest(task_id="x" * 5000), timeout=SECONDS),
        lambda: caller.tasks.StartTask(start_task(resources=["crm:" + "x" * 100_000]), timeout=SECONDS),
    )
    for call, limit in zip(calls, (98_304, 4096, 98_304), strict=True):
        code, error = failure(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        (violation,) = error.field_violations
        assert violation.field == "(request)"
        assert f"at most {limit} bytes" in violation.description
    assert caller.authorize(task_id).outcome == common_pb2.OUTCOME_PERMIT


def test_a_message_larger_than_the_server_reads_ends_the_call_and_nothing_else(caller: Caller) -> None:
    task_id = caller.start_task()
    with pytest.raises(grpc.RpcError) as caught:
        caller.authorization.Authorize(oversized(task_id, 300_000), timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caller.authorize(task_id).outcome == common_pb2.OUTCOME_PERMIT


def test_a_stream_survives_a_request_that_is_too_large_but_not_one_that_is_never_read(caller: Caller) -> None:
    task_id = caller.start_task()
    sizes: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def requests() -> Iterator[authorization_pb2.AuthorizeStreamRequest]:
        for size in iter(sizes.get, None):
            request = oversized(task_id, size) if size else authorize(task_id)
            yield authorization_pb2.AuthorizeStreamRequest(request=request)

    answers = caller.authorization.AuthorizeStream(requests(), timeout=SECONDS)
    sizes.put(100_000)
    assert next(answers).error.reason == "INVALID_REQUEST"
    sizes.put(0)
    assert next(answers).response.outcome == common_pb2.OUTCOME_PERMIT
    sizes.put(300_000)
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    sizes.put(None)
    assert caller.authorize(task_id).outcome == common_pb2.OUTCOME_PERMIT


def test_an_error_about_everything_still_reaches_the_caller(caller: Caller) -> None:
    """Trailers have a limit of their own: an error that is too long would be replaced by one that says nothing."""
    task = start_task(tools=[f"no tool {number:03}" for number in range(200)], resources=["é" * 500] * 64)
    code, error = failure(lambda: caller.tasks.StartTask(task, timeout=SECONDS))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason == "INVALID_REQUEST"
    assert {violation.field for violation in error.field_violations} <= {"scope.tools", "scope.resources"}
    assert "expected `server/name`" in error.field_violations[0].description
    request = authorize(
        "x" * 200, tool="é" * 64 + "/" + "é" * 64, request_id="😀" * 128, proof_key_thumbprint="😀" * 43
    )
    request.justification = request.resource = request.audience = "\x00" * 600
    code, error = failure(lambda: caller.authorization.Authorize(request, timeout=SECONDS))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "request_id" in {violation.field for violation in error.field_violations}


def test_everything_that_went_wrong_is_in_the_log_as_one_line_each(shared: Sidecar, caller: Caller) -> None:
    failure(lambda: caller.tasks.GetTask(task_pb2.GetTaskRequest(task_id="unknown\nforged line"), timeout=SECONDS))
    lines = [json.loads(line) for line in shared.log.splitlines() if line.startswith("{")]
    refusals = [line for line in lines if line["event"] == "rpc refused"]
    assert refusals[-1]["method"] == "TaskService/GetTask"
    assert "forged line" in refusals[-1]["message"]
    assert not [line for line in shared.log.splitlines() if line.startswith("forged")]
    assert "rpc failed" not in {line["event"] for line in lines}
