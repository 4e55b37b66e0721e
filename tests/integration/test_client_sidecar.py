"""The client that we ship against the sidecar that we ship: a permit, a denial, a restart in the middle, the record."""

from __future__ import annotations

import asyncio

import pytest

from authz_sidecar.client import AsyncClient, AsyncTask, Grant, Initiator, RequestRejected, SvidFiles, ToolDenied
from authz_sidecar.v1 import ledger_pb2
from tests.support.sidecar import Caller, World, running, world


def files(made: World) -> SvidFiles:
    svid = made.svid("support")
    return SvidFiles(svid / "svid.pem", svid / "svid_key.pem", svid / "bundle.pem")


async def start(client: AsyncClient) -> AsyncTask:
    return await client.start_task(
        "answer ticket 4711",
        initiator=Initiator("human", "alice"),
        tools=["crm/read_contact"],
        resources=["crm:contact/*"],
        ceiling="internal",
    )


def timeline(made: World, task_id: str) -> ledger_pb2.GetTimelineResponse:
    with Caller(made, "operator") as operator:
        request = ledger_pb2.GetTimelineRequest(task_id=task_id)
        response: ledger_pb2.GetTimelineResponse = operator.ledger.GetTimeline(request, timeout=20)
    return response


async def test_calls_go_on_where_they_were_after_a_restart() -> None:
    tokens: list[str] = []
    with world() as made:
        async with AsyncClient(f"unix:{made.socket}", svid=files(made)) as client:
            with running(made) as first:
                task = await start(client)

                @task.guard("crm", "read_contact")
                async def read(contact_id: str, *, grant: Grant) -> str:
                    tokens.append(grant.token)
                    return contact_id

                assert await asyncio.gather(*(read(f"c-{number}") for number in range(20)))
                with pytest.raises(ToolDenied) as denied:
                    await read("vip-7")
                await asyncio.to_thread(first.stop)
            calling = asyncio.ensure_future(read("c-1001"))
            await asyncio.sleep(0.2)
            with running(made):
                assert await calling == "c-1001"
                await task.complete("done")
                with pytest.raises(ToolDenied, match="The task is"):
                    await read("c-1001")
                with pytest.raises(RequestRejected, match="TASK_NOT_FOUND"):
                    await client.get_task("no-such-task")
                await client.close()
                recorded = await asyncio.to_thread(timeline, made, task.id)

    reports = [record for record in recorded.records if record.type == "outcome"]
    assert len(reports) == 21
    assert list(recorded.missing_outcomes) == []
    assert len(set(tokens)) == 21
    assert denied.value.decision.policies
    assert client.unreported_outcomes == 0
