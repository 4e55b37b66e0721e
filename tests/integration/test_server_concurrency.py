"""Many callers at once, over real connections: one decision for each request id, and no authority after the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import grpc
import pytest

from authz_sidecar.v1 import authorization_pb2, common_pb2, ledger_pb2, task_pb2
from tests.support.sidecar import (
    Caller,
    Sidecar,
    World,
    authorize,
    copy_of,
    error_of,
    running,
    start_task,
    wait_until,
    world,
)

SECONDS = 30
T = TypeVar("T")


@pytest.fixture(scope="module")
def template() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.fixture(scope="module", params=["4096", "4"], ids=["room", "crowded"])
def sidecar(template: World, request: pytest.FixtureRequest) -> Iterator[Sidecar]:
    """Once with room for everybody, and once with so little that many are turned away while records are written."""
    with copy_of(template) as made, running(made, f"ledger.max_queued={request.param}") as value:
        yield value


@pytest.fixture
def caller(sidecar: Sidecar) -> Iterator[Caller]:
    with Caller(sidecar.world) as value:
        yield value


@pytest.fixture
def operator(sidecar: Sidecar) -> Iterator[Caller]:
    with Caller(sidecar.world, "operator") as value:
        yield value


def at_once(calls: list[Callable[[], T]]) -> list[T | grpc.RpcError]:
    """Make all calls at the same moment."""
    results: list[T | grpc.RpcError | None] = [None] * len(calls)
    together = threading.Barrier(len(calls))

    def run(position: int, call: Callable[[], T]) -> None:
        together.wait(SECONDS)
        try:
            results[position] = call()
        except grpc.RpcError as error:
            results[position] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    done = [result for result in results if result is not None]
    assert len(done) == len(calls)
    return done


def insist(call: Callable[[], T]) -> Callable[[], T]:
    """Repeat a call that is turned away for load."""

    def repeated() -> T:
        while True:
            try:
                return call()
            except grpc.RpcError as error:
                if error_of(error).reason != "OVERLOADED":
                    raise

    return repeated


def timeline(operator: Caller, task_id: str) -> list[ledger_pb2.Record]:
    return list(operator.ledger.GetTimeline(ledger_pb2.GetTimelineRequest(task_id=task_id), timeout=SECONDS).records)


def test_one_request_id_sent_many_times_at_once_is_one_decision_with_one_token(
    caller: Caller, operator: Caller
) -> None:
    task_id = caller.start_task()
    request = authorize(task_id)

    def stream() -> authorization_pb2.AuthorizeResponse:
        message = authorization_pb2.AuthorizeStreamRequest(request=request)
        (answer,) = caller.authorization.AuthorizeStream(iter([message]), timeout=SECONDS)
        assert answer.WhichOneof("answer") == "response", answer.error
        return answer.response

    def unary() -> authorization_pb2.AuthorizeResponse:
        return caller.authorization.Authorize(request, timeout=SECONDS)

    answers = [
        answer
        for answer in at_once([insist(unary)] * 14 + [stream] * 6)
        if isinstance(answer, authorization_pb2.AuthorizeResponse)
    ]
    assert len(answers) == 20
    assert {answer.outcome for answer in answers} == {common_pb2.OUTCOME_PERMIT}
    assert len({(answer.decision_id, answer.token.jti, answer.position.index) for answer in answers}) == 1
    assert sum(not answer.recalled for answer in answers) == 1
    assert [record.type for record in timeline(operator, task_id)] == ["task_started", "decision"]


def test_one_request_id_sent_with_different_contents_at_once_is_decided_for_one_of_them(caller: Caller) -> None:
    task_id = caller.start_task()
    requests = [authorize(task_id, request_id="same", justification=f"version {number}") for number in range(10)]

    def ask(request: authorization_pb2.AuthorizeRequest) -> Callable[[], authorization_pb2.AuthorizeResponse]:
        return insist(lambda: caller.authorization.Authorize(request, timeout=SECONDS))

    results = at_once([ask(request) for request in requests])
    answered = [result for result in results if isinstance(result, authorization_pb2.AuthorizeResponse)]
    assert len(answered) == 1
    others = [result for result in results if isinstance(result, grpc.RpcError)]
    assert {error_of(error).reason for error in others} == {"REQUEST_ID_REUSED"}


def test_one_task_is_started_however_often_its_start_is_sent_at_once(caller: Caller) -> None:
    request = start_task()
    answers = at_once([insist(lambda: caller.tasks.StartTask(request, timeout=SECONDS))] * 12)
    started = [answer for answer in answers if isinstance(answer, task_pb2.StartTaskResponse)]
    assert len(started) == 12
    assert len({answer.task.task_id for answer in started}) == 1
    assert sum(not answer.recalled for answer in started) == 1


def test_an_outcome_reported_many_times_at_once_is_recorded_once_and_another_one_contradicts_it(
    caller: Caller, operator: Caller
) -> None:
    task_id = caller.start_task()
    decision_id = caller.authorize(task_id).decision_id

    def report(
        status: authorization_pb2.ExecutionStatus.ValueType,
    ) -> Callable[[], authorization_pb2.ReportOutcomeResponse]:
        request = authorization_pb2.ReportOutcomeRequest(decision_id=decision_id, status=status)
        return insist(lambda: caller.authorization.ReportOutcome(request, timeout=SECONDS))

    success, failed = authorization_pb2.EXECUTION_STATUS_SUCCESS, authorization_pb2.EXECUTION_STATUS_FAILURE
    results = at_once([report(success), report(failed)] * 8)
    receipts = [result for result in results if isinstance(result, authorization_pb2.ReportOutcomeResponse)]
    assert len(receipts) == 16
    assert [record.type for record in timeline(operator, task_id)].count("outcome") == 2
    # Whichever came second says that it differs from the first.
    assert {tuple(receipt.contradictions) for receipt in receipts} == {(), ("reported_before_differently",)}


def permitted(operator: Caller, records: list[ledger_pb2.Record]) -> set[int]:
    """Indexes of the permits among the records."""
    bodies = {one.position.index: operator.record(one.position.index) for one in records if one.type == "decision"}
    return {index for index, body in bodies.items() if body["outcome"] == "permit"}


def unaccounted(operator: Caller, task_id: str, handed_out: set[int]) -> set[int]:
    """Permits that were neither handed out nor voided, and those that were both."""
    records = timeline(operator, task_id)
    voids = [operator.record(one.position.index) for one in records if one.type == "grant_void"]
    voided = {void["decision"]["index"] for void in voids}
    return (permitted(operator, records) ^ handed_out) ^ voided


@pytest.mark.parametrize("round_", range(4))
def test_what_races_with_the_end_of_its_task_has_no_authority_after_it(
    sidecar: Sidecar, caller: Caller, operator: Caller, round_: int
) -> None:
    task_id = caller.start_task()
    complete = insist(lambda: caller.complete(task_id))
    calls: list[Callable[[], object]] = [lambda: caller.authorize(task_id) for _ in range(50)]
    calls.insert(10 * round_, complete)
    results = at_once(calls)
    answers = [result for result in results if isinstance(result, authorization_pb2.AuthorizeResponse)]
    tokens = [answer.token.value for answer in answers if answer.HasField("token")]
    refusals = {error_of(result).reason for result in results if isinstance(result, grpc.RpcError)}
    assert refusals <= {"TASK_NOT_ACTIVE", "OVERLOADED"}
    assert caller.state(task_id) == common_pb2.TASK_STATE_COMPLETED

    with Caller(sidecar.world, "crm") as crm:
        assert not [token for token in tokens if crm.introspect(token)]

    # Every permit comes before the end; and each was either handed out or says that it was not.
    handed_out = {answer.position.index for answer in answers if answer.HasField("token")}
    wait_until(lambda: unaccounted(operator, task_id, handed_out) == set(), seconds=5)
    records = timeline(operator, task_id)
    (end,) = [record.position.index for record in records if record.type == "task_completed"]
    assert all(index < end for index in permitted(operator, records))
    later = caller.authorize(task_id)
    assert (later.outcome, later.reason_code) == (common_pb2.OUTCOME_DENY, "forbidden_by_policy")
