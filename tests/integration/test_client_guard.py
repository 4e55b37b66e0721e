"""Whatever goes wrong before it, a guarded tool does not run; and when it runs, it has the grant for this one call."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
import pytest

from authz_sidecar.client import (
    ApprovalPending,
    AuthzError,
    Grant,
    RequestRejected,
    SidecarUnavailable,
    ToolDenied,
)
from authz_sidecar.v1 import authorization_pb2, common_pb2
from tests.support.client import (
    Answer,
    Behaviour,
    FakeSidecar,
    Gate,
    Response,
    approval,
    async_client,
    deny,
    drop,
    error,
    eventually,
    fake_sidecar,
    hang,
    permit,
    says,
    start,
    start_sync,
    sync_client,
)

SHORT = timedelta(seconds=0.25)
SUCCESS = authorization_pb2.EXECUTION_STATUS_SUCCESS
NOT_ATTEMPTED = authorization_pb2.EXECUTION_STATUS_NOT_ATTEMPTED

Arrange = Callable[[FakeSidecar], object]
Style = Callable[[FakeSidecar, Arrange, Callable[[], object]], None]


@pytest.fixture
def sidecar() -> Iterator[FakeSidecar]:
    with fake_sidecar() as running:
        yield running


def async_decorator(sidecar: FakeSidecar, arrange: Arrange, body: Callable[[], object]) -> None:
    async def main() -> None:
        async with async_client(sidecar, timeout=SHORT) as client:
            task = await start(client)
            arrange(sidecar)

            @task.guard("crm", "read_contact")
            async def tool(contact_id: str) -> None:
                body()

            await tool("42")

    asyncio.run(main())


def async_block(sidecar: FakeSidecar, arrange: Arrange, body: Callable[[], object]) -> None:
    async def main() -> None:
        async with async_client(sidecar, timeout=SHORT) as client:
            task = await start(client)
            arrange(sidecar)
            async with task.guard("crm", "read_contact", {"contact_id": "42"}):
                body()

    asyncio.run(main())


def sync_decorator(sidecar: FakeSidecar, arrange: Arrange, body: Callable[[], object]) -> None:
    with sync_client(sidecar, timeout=SHORT) as client:
        task = start_sync(client)
        arrange(sidecar)

        @task.guard("crm", "read_contact")
        def tool(contact_id: str) -> None:
            body()

        tool("42")


def sync_block(sidecar: FakeSidecar, arrange: Arrange, body: Callable[[], object]) -> None:
    with sync_client(sidecar, timeout=SHORT) as client:
        task = start_sync(client)
        arrange(sidecar)
        with task.guard("crm", "read_contact", {"contact_id": "42"}):
            body()


def sync_decorator_of_async(sidecar: FakeSidecar, arrange: Arrange, body: Callable[[], object]) -> None:
    with sync_client(sidecar, timeout=SHORT) as client:
        task = start_sync(client)
        arrange(sidecar)

        @task.guard("crm", "read_contact")
        async def tool(contact_id: str) -> None:
            body()

        asyncio.run(tool("42"))


STYLES = [async_decorator, async_block, sync_decorator, sync_block, sync_decorator_of_async]


@dataclass(frozen=True)
class Obstacle:
    name: str
    arrange: Arrange
    raises: type[AuthzError]
    says: str
    permitted: bool = False


def scripted(name: str, behaviour: Behaviour, raises: type[AuthzError], says: str, **more: bool) -> Obstacle:
    return Obstacle(name, lambda sidecar: sidecar.on("crm/read_contact", behaviour), raises, says, **more)


def another_request(response: authorization_pb2.AuthorizeResponse) -> None:
    response.request_id = "another"


def no_token(response: authorization_pb2.AuthorizeResponse) -> None:
    response.ClearField("token")


def no_expiry(response: authorization_pb2.AuthorizeResponse) -> None:
    response.token.ClearField("expires_at")


def no_decision_id(response: authorization_pb2.AuthorizeResponse) -> None:
    response.decision_id = ""


def unknown_obligation(response: authorization_pb2.AuthorizeResponse) -> None:
    response.obligations.add(id="redact")


def unknown_outcome(response: authorization_pb2.AuthorizeResponse) -> None:
    response.outcome = 17  # type: ignore[assignment]


def unspecified_outcome(response: authorization_pb2.AuthorizeResponse) -> None:
    response.outcome = common_pb2.OUTCOME_UNSPECIFIED


UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
OBSTACLES = [
    Obstacle("stopped", lambda sidecar: sidecar.stop(), SidecarUnavailable, "UNAVAILABLE"),
    scripted("denied", deny("forbidden_by_policy"), ToolDenied, "forbidden_by_policy (not after hours)"),
    scripted("approval", approval(), ApprovalPending, "approval `a-1`"),
    scripted("hangs", hang(), SidecarUnavailable, "DEADLINE_EXCEEDED"),
    scripted("always drops", drop(), SidecarUnavailable, "UNAVAILABLE"),
    scripted("ledger down", error(UNAVAILABLE, "LEDGER_UNAVAILABLE"), SidecarUnavailable, "LEDGER_UNAVAILABLE"),
    scripted("overloaded", error(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"), SidecarUnavailable, "OVERLOADED"),
    scripted("internal", error(grpc.StatusCode.INTERNAL, ""), SidecarUnavailable, "INTERNAL"),
    scripted(
        "code 0", says(lambda r: Answer(request_id=r.request_id, error=common_pb2.Error())), SidecarUnavailable, "OK"
    ),
    scripted("rejected", error(grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND"), RequestRejected, "TASK_NOT_FOUND"),
    scripted("empty", says(lambda r: Answer(request_id=r.request_id)), SidecarUnavailable, "INVALID_ANSWER"),
    scripted(
        "not asked", says(lambda _: Answer(request_id="another", response=Response())), SidecarUnavailable, "not open"
    ),
    scripted("another inside", permit(change=another_request), SidecarUnavailable, "INVALID_ANSWER"),
    scripted("no token", permit(change=no_token), SidecarUnavailable, "INVALID_ANSWER", permitted=True),
    scripted("no expiry", permit(change=no_expiry), SidecarUnavailable, "INVALID_ANSWER", permitted=True),
    scripted("no decision id", permit(change=no_decision_id), SidecarUnavailable, "INVALID_ANSWER"),
    scripted("obligation", permit(change=unknown_obligation), ToolDenied, "unknown_obligation", permitted=True),
    scripted("unknown outcome", permit(change=unknown_outcome), ToolDenied, "unknown_outcome"),
    scripted("unspecified outcome", permit(change=unspecified_outcome), ToolDenied, "unknown_outcome"),
    scripted("expired", permit(ttl=timedelta(0)), SidecarUnavailable, "TOKEN_EXPIRED", permitted=True),
]


@pytest.mark.parametrize("obstacle", OBSTACLES, ids=lambda each: each.name)
@pytest.mark.parametrize("style", STYLES, ids=lambda each: each.__name__)
def test_the_tool_does_not_run(sidecar: FakeSidecar, style: Style, obstacle: Obstacle) -> None:
    ran: list[bool] = []

    with pytest.raises(obstacle.raises) as caught:
        style(sidecar, obstacle.arrange, lambda: ran.append(True))

    assert not ran
    assert obstacle.says in str(caught.value)
    # A permit that was recorded and not used is accounted for; nothing else has an outcome.
    assert [outcome.status for outcome in sidecar.outcomes] == [NOT_ATTEMPTED] * obstacle.permitted


@pytest.mark.parametrize("style", STYLES, ids=lambda each: each.__name__)
def test_a_permitted_tool_runs_once_and_its_outcome_is_reported(sidecar: FakeSidecar, style: Style) -> None:
    ran: list[bool] = []

    style(sidecar, lambda _: None, lambda: ran.append(True))

    assert ran == [True]
    assert [outcome.status for outcome in sidecar.outcomes] == [SUCCESS]
    assert sidecar.seen[0].request.arguments_json == b'{"contact_id":"42"}'


async def test_the_grant_is_passed_to_a_function_that_takes_it(sidecar: FakeSidecar) -> None:
    async with async_client(sidecar) as client:
        task = await start(client)

        @task.guard("crm", "read_contact", justification="ticket 4711", tool_call_id="call-1")
        async def read(contact_id: str, *, fields: list[str] | None = None, grant: Grant) -> str:
            return grant.token

        token = await read("42")

    request = sidecar.seen[0].request
    assert token == f"token-for-{request.request_id}"
    assert request.arguments_json == b'{"contact_id":"42","fields":null}'
    assert (request.justification, request.tool_call_id) == ("ticket 4711", "call-1")
    assert request.task_id == task.id
    assert list(inspect.signature(read).parameters) == ["contact_id", "fields"]


async def test_arguments_that_change_while_they_are_authorized_are_not_used(sidecar: FakeSidecar) -> None:
    gate = Gate(permit())
    sidecar.on("crm/read_contact", gate)
    arguments: dict[str, Any] = {"contact_id": "42"}
    ran = False
    async with async_client(sidecar) as client:
        task = await start(client)

        async def call() -> None:
            nonlocal ran
            async with task.guard("crm", "read_contact", arguments):
                ran = True

        calling = asyncio.create_task(call())
        await asyncio.to_thread(eventually, lambda: gate.waiting == 1)
        arguments["contact_id"] = "vip-1"
        gate.open()
        with pytest.raises(RequestRejected, match="ARGUMENTS_CHANGED"):
            await calling

    assert not ran
    assert [outcome.status for outcome in sidecar.outcomes] == [NOT_ATTEMPTED]


async def test_arguments_that_are_not_json_are_refused_before_anything_is_asked(sidecar: FakeSidecar) -> None:
    async with async_client(sidecar) as client:
        task = await start(client)
        with pytest.raises(RequestRejected, match=r"`when`.*got object"):
            async with task.guard("crm", "read_contact", {"when": object()}):
                pytest.fail("the tool ran")

    assert sidecar.seen == []


async def test_a_digest_can_stand_for_the_arguments(sidecar: FakeSidecar) -> None:
    async with async_client(sidecar) as client:
        task = await start(client)
        async with task.guard("crm", "read_contact", {"contact_id": "42"}, digest_only=True):
            pass
        with pytest.raises(RequestRejected, match="no digest"):
            async with task.guard("crm", "read_contact", {"amount": 0.5}, digest_only=True):
                pytest.fail("the tool ran")

    (seen,) = sidecar.seen
    assert seen.request.WhichOneof("arguments") == "arguments_sha256"
    assert sidecar.outcomes[0].arguments_sha256 == seen.request.arguments_sha256


async def test_a_block_is_for_one_call(sidecar: FakeSidecar) -> None:
    async with async_client(sidecar) as client:
        task = await start(client)
        guard = task.guard("crm", "read_contact", {"contact_id": "42"})
        async with guard:
            pass
        with pytest.raises(RuntimeError, match="one call"):
            async with guard:
                pytest.fail("the tool ran")
        with pytest.raises(TypeError, match="arguments"):
            async with task.guard("crm", "read_contact"):
                pytest.fail("the tool ran")

    assert len(sidecar.seen) == 1


async def test_a_misspelled_option_is_refused_where_it_is_written(sidecar: FakeSidecar) -> None:
    async with async_client(sidecar) as client:
        task = await start(client)
        with pytest.raises(TypeError, match="resouce"):
            task.guard("crm", "read_contact", resouce="crm:contact/1")  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="resouce"):
            await task.authorize("crm", "read_contact", {}, resouce="crm:contact/1")  # type: ignore[call-arg]
    with sync_client(sidecar) as other:
        again = await asyncio.to_thread(start_sync, other)
        with pytest.raises(TypeError, match="resouce"):
            again.guard("crm", "read_contact", resouce="crm:contact/1")  # type: ignore[call-arg]

    assert sidecar.seen == []


async def test_a_function_that_does_its_work_later_is_refused(sidecar: FakeSidecar) -> None:
    ran: list[str] = []

    async def work() -> None:
        ran.append("work")

    async with async_client(sidecar) as client:
        task = await start(client)
        with pytest.raises(TypeError, match="AsyncClient"):

            @task.guard("crm", "read_contact")
            def blocking() -> None: ...

        with pytest.raises(TypeError, match="generator"):

            @task.guard("crm", "read_contact")
            async def stream() -> AsyncIterator[None]:
                yield

    def promise() -> object:
        return work()

    with sync_client(sidecar) as other:
        later = start_sync(other).guard("crm", "read_contact")(promise)
        with pytest.raises(TypeError, match="awaitable"):
            await asyncio.to_thread(later)

    assert ran == []
    assert [outcome.status for outcome in sidecar.outcomes] == [authorization_pb2.EXECUTION_STATUS_FAILURE]


async def test_traceparent_comes_from_the_call_or_from_the_callable(sidecar: FakeSidecar) -> None:
    parents = iter(["00-callable-1", None])
    async with async_client(sidecar, traceparent=lambda: next(parents)) as client:
        task = await start(client, traceparent="00-given-1")
        async with task.guard("crm", "read_contact", {}, traceparent="00-given-2"):
            pass
        async with task.guard("crm", "read_contact", {}):
            pass
        async with task.guard("crm", "read_contact", {}):
            pass

    assert [seen.request.traceparent for seen in sidecar.seen] == ["00-given-2", "00-callable-1", ""]
    assert [outcome.traceparent for outcome in sidecar.outcomes] == ["00-given-2", "00-callable-1", ""]
    assert sidecar.started[0].traceparent == "00-given-1"
