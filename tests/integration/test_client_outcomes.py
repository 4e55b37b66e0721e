"""What happened to a permitted call is reported, and reporting never costs the agent its result."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterator
from datetime import timedelta

import grpc
import pytest
import rfc8785

from authz_sidecar.client import OutcomeStatus, Permitted
from authz_sidecar.v1 import authorization_pb2
from tests.support.client import (
    FakeSidecar,
    async_client,
    eventually_async,
    failure,
    fake_sidecar,
    start,
    start_sync,
    sync_client,
)

SUCCESS = authorization_pb2.EXECUTION_STATUS_SUCCESS
FAILURE = authorization_pb2.EXECUTION_STATUS_FAILURE
TIMEOUT = authorization_pb2.EXECUTION_STATUS_TIMEOUT
NOT_ATTEMPTED = authorization_pb2.EXECUTION_STATUS_NOT_ATTEMPTED


@pytest.fixture
def sidecar() -> Iterator[FakeSidecar]:
    with fake_sidecar() as running:
        yield running


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


async def test_success_is_reported_with_the_digests_of_arguments_and_result(sidecar: FakeSidecar) -> None:
    async with async_client(sidecar) as client:
        task = await start(client)

        @task.guard("crm", "read_contact")
        async def read(contact_id: str) -> dict[str, object]:
            return {"name": "Zoë", "id": contact_id}

        await read("42")
        async with task.guard("crm", "read_contact", {"contact_id": "43"}) as grant:
            assert grant.result(b"raw") == b"raw"
        async with task.guard("crm", "read_contact", {"amount": 0.5}):
            pass

    by_decorator, with_result, inexact = sidecar.outcomes
    assert {outcome.status for outcome in sidecar.outcomes} == {SUCCESS}
    assert by_decorator.arguments_sha256 == sha256(rfc8785.dumps({"contact_id": "42"}))
    assert by_decorator.result_sha256 == sha256(rfc8785.dumps({"name": "Zoë", "id": "42"}))
    assert with_result.result_sha256 == sha256(b"raw")
    assert (inexact.arguments_sha256, inexact.result_sha256) == (b"", b"")


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (ValueError("secret detail"), FAILURE),
        (TimeoutError(), TIMEOUT),
        (asyncio.CancelledError(), TIMEOUT),
        (KeyboardInterrupt(), TIMEOUT),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_the_tool_raises_is_passed_on_and_reported_without_its_message(
    sidecar: FakeSidecar, raised: BaseException, status: int
) -> None:
    with sync_client(sidecar) as client:
        task = start_sync(client)

        @task.guard("crm", "read_contact")
        def read() -> None:
            raise raised

        with pytest.raises(type(raised)) as caught:
            read()
        with pytest.raises(type(raised)), task.guard("crm", "read_contact", {}):
            raise raised

    assert caught.value is raised
    assert [(each.status, each.detail) for each in sidecar.outcomes] == [(status, type(raised).__name__)] * 2
    assert all(each.arguments_sha256 and not each.result_sha256 for each in sidecar.outcomes)


async def test_a_cancelled_tool_is_reported_as_of_unknown_effect(sidecar: FakeSidecar) -> None:
    started = asyncio.Event()
    async with async_client(sidecar) as client:
        task = await start(client)

        @task.guard("crm", "read_contact")
        async def read() -> None:
            started.set()
            await asyncio.Event().wait()

        running = asyncio.ensure_future(read())
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(read(), 0.2)

    assert [(each.status, each.detail) for each in sidecar.outcomes] == [(TIMEOUT, "CancelledError")] * 2


async def test_a_report_is_repeated_until_the_sidecar_can_take_it(sidecar: FakeSidecar) -> None:
    sidecar.unary_failures["ReportOutcome"] = [
        failure(grpc.StatusCode.UNAVAILABLE, "LEDGER_UNAVAILABLE"),
        failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
    ]
    async with async_client(sidecar) as client:
        task = await start(client)
        async with task.guard("crm", "read_contact", {}):
            pass

    assert [outcome.status for outcome in sidecar.outcomes] == [SUCCESS]
    assert client.unreported_outcomes == 0


async def test_a_report_that_is_lost_is_logged_and_counted_and_the_result_is_not(
    sidecar: FakeSidecar, caplog: pytest.LogCaptureFixture
) -> None:
    sidecar.unary_failures["ReportOutcome"] = [failure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "wrong")]
    async with async_client(sidecar) as client:
        task = await start(client)

        @task.guard("crm", "read_contact")
        async def read() -> str:
            return "the result"

        assert await read() == "the result"
        await eventually_async(lambda: client.unreported_outcomes == 1)

    (record,) = caplog.records
    assert (record.name, record.levelno) == ("authz_sidecar.client", logging.ERROR)
    assert "ended with SUCCESS: INVALID_REQUEST: wrong" in record.getMessage()


@pytest.mark.parametrize("synchronous", [False, True])
def test_a_sidecar_that_dies_during_the_call_costs_only_the_report(sidecar: FakeSidecar, synchronous: bool) -> None:
    timeout = timedelta(seconds=0.4)

    async def asynchronously() -> int:
        async with async_client(sidecar, timeout=timeout) as client:
            task = await start(client)

            @task.guard("crm", "read_contact")
            async def read() -> str:
                sidecar.stop()
                return "the result"

            assert await read() == "the result"
        return client.unreported_outcomes

    def synchronously() -> int:
        with sync_client(sidecar, timeout=timeout) as client:
            task = start_sync(client)

            @task.guard("crm", "read_contact")
            def read() -> str:
                sidecar.stop()
                return "the result"

            assert read() == "the result"
        return client.unreported_outcomes

    began = time.monotonic()
    assert (synchronously() if synchronous else asyncio.run(asynchronously())) == 1
    assert time.monotonic() - began < 3


def test_an_outcome_after_close_is_counted(sidecar: FakeSidecar) -> None:
    client = sync_client(sidecar)
    task = start_sync(client)
    with task.guard("crm", "read_contact", {}):
        client.close()

    assert client.unreported_outcomes == 1


async def test_a_contradiction_that_the_sidecar_found_is_logged(
    sidecar: FakeSidecar, caplog: pytest.LogCaptureFixture
) -> None:
    sidecar.contradictions = ["arguments_differ"]
    async with async_client(sidecar) as client:
        task = await start(client)
        async with task.guard("crm", "read_contact", {}):
            pass

    assert "arguments_differ" in caplog.text
    assert client.unreported_outcomes == 0


async def test_code_that_enforces_decisions_itself_can_report_them(sidecar: FakeSidecar) -> None:
    async with async_client(sidecar) as client:
        task = await start(client)
        permit = await task.authorize("crm", "read_contact", {"contact_id": "42"})
        assert isinstance(permit, Permitted)
        task.report(permit, OutcomeStatus.SUCCESS, arguments={"contact_id": "42"}, result="Zoë")
        task.report(permit, OutcomeStatus.NOT_ATTEMPTED, detail="changed its mind" * 100)
    with sync_client(sidecar) as other:
        again = start_sync(other)
        permit = again.authorize("crm", "read_contact", {})
        assert isinstance(permit, Permitted)
        again.report(permit, OutcomeStatus.FAILURE, arguments={})

    success, not_attempted, failed = sorted(sidecar.outcomes, key=lambda each: (each.status != SUCCESS, -each.status))
    assert success.arguments_sha256 == sha256(b'{"contact_id":"42"}')
    assert success.result_sha256 == sha256("Zoë".encode())
    assert (not_attempted.status, len(not_attempted.detail)) == (NOT_ATTEMPTED, 512)
    assert failed.status == FAILURE
