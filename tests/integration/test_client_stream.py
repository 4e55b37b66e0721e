"""Many calls share one stream, find their own answers, and survive its loss."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from authz_sidecar.client import AsyncClient, Permitted, RequestRejected, SidecarUnavailable
from authz_sidecar.v1 import authorization_pb2
from tests.support.client import (
    Answer,
    Backwards,
    Behaviour,
    FakeSidecar,
    Gate,
    async_client,
    deny,
    drop,
    error,
    eventually_async,
    failure,
    fake_sidecar,
    hang,
    permit,
    says,
    start,
)

NOT_ATTEMPTED = authorization_pb2.EXECUTION_STATUS_NOT_ATTEMPTED
SHORT = timedelta(seconds=0.25)


@pytest.fixture
def sidecar() -> Iterator[FakeSidecar]:
    with fake_sidecar() as running:
        yield running


def ids(sidecar: FakeSidecar) -> list[str]:
    return [seen.request.request_id for seen in sidecar.seen]


async def test_a_hundred_concurrent_calls_share_one_stream_and_get_their_own_answers(sidecar: FakeSidecar) -> None:
    sidecar.on("crm/read_contact", Backwards(100))
    tokens: dict[str, str] = {}
    async with async_client(sidecar) as client:
        task = await start(client)

        async def call(number: int) -> None:
            async with task.guard("crm", "read_contact", {"number": number}) as grant:
                tokens[f'{{"number":{number}}}'] = grant.token

        await asyncio.gather(*(call(number) for number in range(100)))

    asked = {seen.request.arguments_json.decode(): f"token-for-{seen.request.request_id}" for seen in sidecar.seen}
    assert len(asked) == len(sidecar.seen) == 100
    assert tokens == asked
    assert sidecar.streams == 1
    assert len(sidecar.outcomes) == 100


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OK, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED]
)
async def test_calls_in_flight_on_a_lost_stream_are_asked_again_under_the_same_id(
    sidecar: FakeSidecar, code: grpc.StatusCode
) -> None:
    # The first stream is lost after both calls were decided and before either was answered.
    gate = Gate(hang())
    sidecar.on("crm/read_contact", gate, drop(code, after=permit()), permit())
    async with async_client(sidecar) as client:
        task = await start(client)
        decisions = await asyncio.gather(
            task.authorize("crm", "read_contact", {"number": 1}), task.authorize("crm", "read_contact", {"number": 2})
        )

    first, second = decisions
    assert isinstance(first, Permitted) and isinstance(second, Permitted)
    assert [seen.stream for seen in sidecar.seen[:2]] == [1, 1]
    assert 1 not in [seen.stream for seen in sidecar.seen[2:]]
    assert sorted(ids(sidecar)) == sorted([first.request_id, second.request_id] * 2)
    assert [first.recalled, second.recalled] == [False, True]


async def test_a_request_that_the_sidecar_could_not_answer_yet_is_asked_again(sidecar: FakeSidecar) -> None:
    unavailable = error(grpc.StatusCode.UNAVAILABLE, "LEDGER_UNAVAILABLE")
    sidecar.on("crm/read_contact", unavailable, unavailable, permit())
    async with async_client(sidecar) as client:
        task = await start(client)
        decision = await task.authorize("crm", "read_contact", {})

    assert isinstance(decision, Permitted)
    assert ids(sidecar) == [decision.request_id] * 3
    assert sidecar.streams == 1


@pytest.mark.parametrize(
    "definite",
    [
        deny(),
        error(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "wrong", "task_id"),
        error(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
        error(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
        says(lambda request: Answer(request_id=request.request_id)),
    ],
)
async def test_a_definite_answer_is_never_asked_for_twice(sidecar: FakeSidecar, definite: Behaviour) -> None:
    sidecar.on("crm/read_contact", definite, permit())
    async with async_client(sidecar) as client:
        task = await start(client)
        try:
            decision = await task.authorize("crm", "read_contact", {})
        except (RequestRejected, SidecarUnavailable) as refused:
            if isinstance(refused, RequestRejected) and refused.reason == "INVALID_REQUEST":
                assert [violation.field for violation in refused.violations] == ["task_id"]
        else:
            assert not isinstance(decision, Permitted)

    assert len(sidecar.seen) == 1


async def test_the_client_comes_back_when_the_sidecar_does(sidecar: FakeSidecar) -> None:
    async with async_client(sidecar) as client:
        task = await start(client)
        assert isinstance(await task.authorize("crm", "read_contact", {}), Permitted)
        sidecar.stop()
        calling = asyncio.create_task(task.authorize("crm", "read_contact", {"again": True}))
        await asyncio.sleep(0.3)
        assert not calling.done()
        sidecar.start()
        assert isinstance(await calling, Permitted)
        assert isinstance(await task.authorize("crm", "read_contact", {}), Permitted)

    assert sidecar.streams == 2


async def test_a_slow_sidecar_costs_no_more_than_the_timeout_and_its_late_permit_is_accounted_for(
    sidecar: FakeSidecar,
) -> None:
    gate = Gate(permit())
    sidecar.on("crm/read_contact", gate, permit())
    async with async_client(sidecar, timeout=SHORT) as client:
        task = await start(client)
        began = time.monotonic()
        with pytest.raises(SidecarUnavailable, match=r"DEADLINE_EXCEEDED: no answer within 0.25 s"):
            await task.authorize("crm", "read_contact", {})
        assert time.monotonic() - began < 2
        gate.open()
        await eventually_async(lambda: len(sidecar.outcomes) == 1)

    (late,) = sidecar.outcomes
    assert (late.decision_id, late.status) == (f"d-{ids(sidecar)[0]}", NOT_ATTEMPTED)


async def test_a_connection_that_fell_silent_is_replaced(sidecar: FakeSidecar) -> None:
    sidecar.on("crm/read_contact", hang(), permit())
    async with async_client(sidecar, timeout=SHORT) as client:
        task = await start(client)
        with pytest.raises(SidecarUnavailable):
            await task.authorize("crm", "read_contact", {})
        assert isinstance(await task.authorize("crm", "read_contact", {}), Permitted)

    assert [seen.stream for seen in sidecar.seen] == [1, 2]


async def test_a_connection_on_which_only_one_call_is_slow_is_kept(sidecar: FakeSidecar) -> None:
    sidecar.on("crm/slow", hang())
    async with async_client(sidecar, timeout=SHORT) as client:
        task = await start(client)
        slow = asyncio.create_task(task.authorize("crm", "slow", {}))
        await eventually_async(lambda: len(sidecar.seen) == 1)
        assert isinstance(await task.authorize("crm", "read_contact", {}), Permitted)
        with pytest.raises(SidecarUnavailable):
            await slow
        assert isinstance(await task.authorize("crm", "read_contact", {}), Permitted)

    assert sidecar.streams == 1


async def test_a_caller_that_stops_waiting_leaves_no_permit_unaccounted_and_others_undisturbed(
    sidecar: FakeSidecar,
) -> None:
    gate = Gate(permit())
    sidecar.on("crm/read_contact", gate)
    async with async_client(sidecar) as client:
        task = await start(client)
        cancelled, kept = (asyncio.create_task(task.authorize("crm", "read_contact", {"n": n})) for n in (1, 2))
        await eventually_async(lambda: gate.waiting == 2)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        gate.open()
        permitted = await kept
        await eventually_async(lambda: len(sidecar.outcomes) == 1)

    assert isinstance(permitted, Permitted)
    assert sidecar.streams == 1
    assert sidecar.outcomes[0].status == NOT_ATTEMPTED
    assert sidecar.outcomes[0].decision_id != permitted.decision_id


async def test_a_caller_that_is_cancelled_at_once_asks_nothing(sidecar: FakeSidecar) -> None:
    async with async_client(sidecar) as client:
        task = await start(client)
        await task.authorize("crm", "read_contact", {})
        calling = asyncio.create_task(task.authorize("crm", "read_contact", {"n": 1}))
        asyncio.get_running_loop().call_soon(calling.cancel)
        with pytest.raises(asyncio.CancelledError):
            await calling
        await task.authorize("crm", "read_contact", {"n": 2})

    assert b'{"n":1}' not in [seen.request.arguments_json for seen in sidecar.seen]


async def test_an_answer_to_something_never_asked_costs_the_stream_and_no_decision(sidecar: FakeSidecar) -> None:
    sidecar.on("crm/read_contact", says(lambda _: Answer(request_id="never-asked")), permit())
    async with async_client(sidecar) as client:
        task = await start(client)
        decision = await task.authorize("crm", "read_contact", {})

    assert isinstance(decision, Permitted)
    assert [seen.stream for seen in sidecar.seen] == [1, 2]
    assert ids(sidecar) == [decision.request_id] * 2


@pytest.mark.parametrize("attempt", range(10))
async def test_a_caller_that_is_not_identified_is_told_so_at_once(sidecar: FakeSidecar, attempt: int) -> None:
    # Repeated, because the refusal races with the first message, and gRPC may forget it then.
    sidecar.refused = failure(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", f"the JWT-SVID expired {attempt}")
    async with async_client(sidecar) as client:
        task = await start(client)
        with pytest.raises(RequestRejected, match=f"UNAUTHENTICATED: the JWT-SVID expired {attempt}"):
            await task.authorize("crm", "read_contact", {})

    assert sidecar.streams == 1


async def test_a_stream_that_ends_with_its_credential_is_opened_with_the_next_one(
    sidecar: FakeSidecar, tmp_path: Path
) -> None:
    file = tmp_path / "jwt_svid.token"
    file.write_text("first.e30.c2ln\n")
    sidecar.on("crm/read_contact", permit(), drop(grpc.StatusCode.UNAUTHENTICATED), permit())
    async with async_client(sidecar, jwt_svid=file) as client:
        task = await start(client)
        await task.authorize("crm", "read_contact", {})
        calling = asyncio.create_task(task.authorize("crm", "read_contact", {"n": 2}))
        await eventually_async(lambda: len(sidecar.seen) == 2)
        file.write_text("second.e30.c2ln\n")
        assert isinstance(await calling, Permitted)

    assert [seen.authorization for seen in sidecar.seen] == ["Bearer first.e30.c2ln"] * 2 + ["Bearer second.e30.c2ln"]
    assert {seen.request.proof_key_thumbprint for seen in sidecar.seen} == {"A" * 43}


@pytest.mark.parametrize("broken", [lambda: "", lambda: "no jwt", lambda: 1 / 0], ids=["empty", "text", "raises"])
async def test_without_a_usable_credential_nothing_is_sent(sidecar: FakeSidecar, broken: object) -> None:
    async with async_client(sidecar, jwt_svid=broken, timeout=SHORT) as client:
        with pytest.raises(SidecarUnavailable, match="CREDENTIAL_UNUSABLE"):
            await start(client)

    assert sidecar.started == []


async def test_a_closed_client_answers_nobody(sidecar: FakeSidecar) -> None:
    sidecar.on("crm/read_contact", hang())
    client = async_client(sidecar)
    task = await start(client)
    waiting = asyncio.create_task(task.authorize("crm", "read_contact", {}))
    await eventually_async(lambda: len(sidecar.seen) == 1)
    await client.close()

    with pytest.raises(SidecarUnavailable, match="CLIENT_CLOSED"):
        await waiting
    with pytest.raises(SidecarUnavailable, match="CLIENT_CLOSED"):
        await task.authorize("crm", "read_contact", {})


async def test_a_request_id_that_is_in_use_is_not_sent_again(sidecar: FakeSidecar) -> None:
    gate = Gate(permit())
    sidecar.on("crm/read_contact", gate)
    async with async_client(sidecar, new_request_id=lambda: "always") as client:
        task = await start(client)
        first = asyncio.create_task(task.authorize("crm", "read_contact", {"n": 1}))
        await eventually_async(lambda: gate.waiting == 1)
        with pytest.raises(RequestRejected, match="REQUEST_ID_REUSED"):
            await task.authorize("crm", "read_contact", {"n": 2})
        gate.open()
        assert isinstance(await first, Permitted)

    assert len(sidecar.seen) == 1


def test_a_client_of_another_event_loop_is_refused(sidecar: FakeSidecar) -> None:
    client = async_client(sidecar)
    asyncio.run(first_use(client))
    with pytest.raises(SidecarUnavailable, match="WRONG_EVENT_LOOP"):
        asyncio.run(first_use(client))


async def first_use(client: AsyncClient) -> None:
    await start(client)
