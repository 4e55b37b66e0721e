"""The example's enforcement point: whatever is not a permit, the tool's body does not run and the agent goes on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import grpc
import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ToolReturnPart

from authz_sidecar.client import AsyncTask
from authz_sidecar.v1 import authorization_pb2
from examples.agent.enforcement import Enforcement
from examples.agent.scripted_model import ScriptedCall, scripted_model, tool_answers
from tests.support.client import (
    Behaviour,
    FakeSidecar,
    approval,
    async_client,
    deny,
    drop,
    error,
    fake_sidecar,
    hang,
    permit,
    start,
)

TOOL = "crm/read_contact"
CALL = ScriptedCall("read_contact", {"contact_id": "c-1001"})


@pytest.fixture
def sidecar() -> Iterator[FakeSidecar]:
    with fake_sidecar() as fake:
        yield fake


class Body:
    """A tool body that notes that it ran."""

    def __init__(self, error: Exception | None = None) -> None:
        self.ran: list[str] = []
        self._error = error

    async def read_contact(self, contact_id: str) -> str:
        self.ran.append(contact_id)
        if self._error is not None:
            raise self._error
        return "Ada"


async def ask(task: AsyncTask, body: Body) -> ToolReturnPart:
    agent = Agent(scripted_model([CALL]), tools=[body.read_contact], capabilities=[Enforcement(task, server="crm")])
    (answer,) = tool_answers((await agent.run("go")).all_messages())
    return answer


async def test_permitted_tool_runs_once_and_its_success_is_reported(sidecar: FakeSidecar) -> None:
    body = Body()
    sidecar.on(TOOL, permit())
    async with async_client(sidecar) as client:
        answer = await ask(await start(client), body)
    assert (answer.outcome, answer.content, body.ran) == ("success", "Ada", ["c-1001"])
    (request,) = [seen.request for seen in sidecar.seen]
    assert (request.tool_call_id, request.arguments_json) == ("call-1", b'{"contact_id":"c-1001"}')
    assert [outcome.status for outcome in sidecar.outcomes] == [authorization_pb2.EXECUTION_STATUS_SUCCESS]


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        pytest.param(deny(), "not after hours", id="denied"),
        pytest.param(approval(), "waits for approval `a-1`", id="approval required"),
        pytest.param(error(grpc.StatusCode.UNAVAILABLE, "LEDGER_UNAVAILABLE"), "LEDGER_UNAVAILABLE", id="error"),
        pytest.param(error(grpc.StatusCode.INTERNAL, "INTERNAL"), "INTERNAL", id="bug in the sidecar"),
        pytest.param(drop(), "UNAVAILABLE", id="connection lost"),
        pytest.param(hang(), "no answer within", id="no answer in time"),
        pytest.param(permit(ttl=timedelta(seconds=-1)), "TOKEN_EXPIRED", id="token expired before the call"),
        pytest.param(permit(change=lambda response: response.ClearField("token")), "INVALID_ANSWER", id="no token"),
    ],
)
async def test_without_a_usable_permit_the_body_does_not_run(
    sidecar: FakeSidecar, behaviour: Behaviour, told: str
) -> None:
    body = Body()
    sidecar.on(TOOL, behaviour)
    async with async_client(sidecar, timeout=timedelta(milliseconds=300)) as client:
        answer = await ask(await start(client), body)
    assert body.ran == []
    assert answer.outcome == "failed"
    assert str(answer.content).startswith("not allowed: ")
    assert told in str(answer.content)


async def test_sidecar_that_is_gone_means_that_the_body_does_not_run(sidecar: FakeSidecar) -> None:
    body = Body()
    async with async_client(sidecar, timeout=timedelta(milliseconds=300)) as client:
        task = await start(client)
        sidecar.stop()
        answer = await ask(task, body)
    assert body.ran == []
    assert (answer.outcome, str(answer.content).partition(":")[0]) == ("failed", "not allowed")


async def test_failure_of_the_tool_itself_is_not_taken_for_a_refusal_and_is_reported(sidecar: FakeSidecar) -> None:
    body = Body(LookupError("no such contact"))
    sidecar.on(TOOL, permit())
    async with async_client(sidecar) as client:
        task = await start(client)
        with pytest.raises(LookupError, match="no such contact"):
            await ask(task, body)
    assert body.ran == ["c-1001"]
    assert [outcome.status for outcome in sidecar.outcomes] == [authorization_pb2.EXECUTION_STATUS_FAILURE]
