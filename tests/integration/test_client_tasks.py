"""Tasks as the agent sees them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from authz_sidecar.client import RequestRejected, SidecarUnavailable, TaskRefused
from authz_sidecar.v1 import common_pb2
from tests.support.client import (
    FakeSidecar,
    async_client,
    failure,
    fake_sidecar,
    start,
    start_sync,
    sync_client,
)


@pytest.fixture
def sidecar() -> Iterator[FakeSidecar]:
    with fake_sidecar() as running:
        yield running


async def test_a_task_says_what_it_may_do_and_for_how_long(sidecar: FakeSidecar) -> None:
    async with async_client(sidecar) as client:
        task = await start(client, objective="all of it", ttl=timedelta(minutes=5))
        again = await client.get_task(task.id)

    (request,) = sidecar.started
    assert again.info == task.info
    assert (task.info.state, task.info.ceiling, task.info.tools) == ("active", "internal", ("crm/read_contact",))
    assert task.info.expires_at > datetime.now(UTC)
    assert (request.objective, request.ttl.ToTimedelta()) == ("all of it", timedelta(minutes=5))
    assert (request.initiator.kind, request.initiator.id) == (common_pb2.INITIATOR_KIND_HUMAN, "alice")


def test_a_refused_task_says_why(sidecar: FakeSidecar) -> None:
    with sync_client(sidecar) as client, pytest.raises(TaskRefused, match=r"forbidden_by_policy \(no\)") as caught:
        start_sync(client, "world domination")

    assert [policy.id for policy in caught.value.policies] == ["p-9"]


async def test_a_lost_start_is_asked_again_under_the_same_id(sidecar: FakeSidecar) -> None:
    sidecar.unary_failures["StartTask"] = [failure(grpc.StatusCode.UNAVAILABLE, "NOT_READY")] * 2
    async with async_client(sidecar) as client:
        await start(client)

    assert len(sidecar.started) == 3
    assert len({request.request_id for request in sidecar.started}) == 1


async def test_what_is_wrong_with_a_request_is_named(sidecar: FakeSidecar) -> None:
    wrong = failure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "`scope.tools`: is wrong", "scope.tools")
    sidecar.unary_failures["StartTask"] = [wrong]
    async with async_client(sidecar) as client:
        with pytest.raises(RequestRejected, match=r"`scope.tools`: is wrong") as caught:
            await start(client)

    assert [(each.field, each.description) for each in caught.value.violations] == [("scope.tools", "is wrong")]


async def test_a_task_that_was_completed_twice_is_complete(sidecar: FakeSidecar) -> None:
    # The first answer is lost on its way back.
    sidecar.unary_failures["CompleteTask"] = [failure(grpc.StatusCode.UNAVAILABLE, "")]
    async with async_client(sidecar) as client:
        task = await start(client)
        assert (await task.complete("done")).state == "completed"

    assert task.info.state == "completed"


def test_a_task_that_ended_otherwise_cannot_be_completed(sidecar: FakeSidecar) -> None:
    with sync_client(sidecar) as client:
        task = start_sync(client)
        sidecar.tasks[task.id].state = common_pb2.TASK_STATE_CANCELLED
        with pytest.raises(RequestRejected, match="TASK_NOT_ACTIVE"):
            task.complete()
        assert client.get_task(task.id).info.state == "cancelled"


async def test_an_unknown_task_is_not_found(sidecar: FakeSidecar) -> None:
    async with async_client(sidecar) as client:
        with pytest.raises(RequestRejected, match="TASK_NOT_FOUND"):
            await client.get_task("t-unknown")


async def test_half_a_task_is_no_task(sidecar: FakeSidecar) -> None:
    async with async_client(sidecar) as client:
        task = await start(client)
        sidecar.tasks[task.id].ClearField("expires_at")
        with pytest.raises(SidecarUnavailable, match="INVALID_ANSWER"):
            await client.get_task(task.id)
