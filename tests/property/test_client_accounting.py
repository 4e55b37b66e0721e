"""Whatever the sidecar does to any mix of concurrent calls: bodies run on their own permit, and permits are settled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_sidecar.client import AuthzError, Grant
from authz_sidecar.v1 import authorization_pb2
from tests.support.client import (
    Answer,
    Behaviour,
    FakeSidecar,
    approval,
    async_client,
    deny,
    drop,
    error,
    fake_sidecar,
    permit,
    says,
    start,
)


def obligation(response: authorization_pb2.AuthorizeResponse) -> None:
    response.obligations.add(id="redact")


# What can happen any number of times before the definite answer, given the behaviour that gives it.
LOST: dict[str, Callable[[Behaviour], Behaviour]] = {
    "dropped": lambda _: drop(),
    "dropped after deciding": lambda definite: drop(after=definite),
    "ended": lambda _: drop(grpc.StatusCode.OK),
    "unavailable": lambda _: error(grpc.StatusCode.UNAVAILABLE, "NOT_READY"),
    "answered something else": lambda _: says(lambda _: Answer(request_id="something else")),
}
DEFINITE: dict[str, Behaviour] = {
    "permitted": permit(),
    "denied": deny(),
    "approval": approval(),
    "expired": permit(ttl=timedelta(0)),
    "obligation": permit(change=obligation),
    "rejected": error(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
}
OWE_AN_OUTCOME = {"permitted", "expired", "obligation"}
CALL = st.tuples(st.lists(st.sampled_from(sorted(LOST)), max_size=2), st.sampled_from(sorted(DEFINITE)), st.booleans())


@pytest.fixture(scope="module")
def sidecar() -> Iterator[FakeSidecar]:
    with fake_sidecar() as running:
        yield running


@settings(max_examples=25, deadline=None)
@given(calls=st.lists(CALL, min_size=1, max_size=8))
def test_every_permit_has_exactly_one_outcome_and_only_permits_run(
    sidecar: FakeSidecar, calls: list[tuple[list[str], str, bool]]
) -> None:
    sidecar.decisions.clear()
    sidecar.outcomes.clear()
    sidecar.seen.clear()
    ran: dict[int, str] = {}

    async def main() -> None:
        async with async_client(sidecar, timeout=timedelta(seconds=20)) as client:
            task = await start(client)

            async def call(number: int, fails: bool) -> None:
                @task.guard("crm", f"tool-{number}")
                async def tool(*, grant: Grant) -> None:
                    ran[number] = grant.token
                    if fails:
                        raise ValueError

                with suppress(AuthzError, ValueError):
                    await tool()

            for number, (lost, definite, _) in enumerate(calls):
                behaviours = [LOST[name](DEFINITE[definite]) for name in lost]
                sidecar.on(f"crm/tool-{number}", *behaviours, DEFINITE[definite])
            await asyncio.gather(*(call(number, fails) for number, (_, _, fails) in enumerate(calls)))

    asyncio.run(main())

    ids = {seen.tool: seen.request.request_id for seen in sidecar.seen}
    request_ids = [ids[f"crm/tool-{number}"] for number in range(len(calls))]
    answers = [definite for _, definite, _ in calls]
    assert ran == {n: f"token-for-{request_ids[n]}" for n, answer in enumerate(answers) if answer == "permitted"}
    owed = [f"d-{request_ids[n]}" for n, answer in enumerate(answers) if answer in OWE_AN_OUTCOME]
    assert sorted(outcome.decision_id for outcome in sidecar.outcomes) == sorted(owed)
