"""Delegation over the real store: what shrinks, who is refused, and what the records and tokens say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from authz_sidecar.errors import RequestIdReused, TaskNotActive, TaskNotFound
from authz_sidecar.pdp.verdict import Deny, Permit
from authz_sidecar.task.attenuation import MAX_DEPTH
from authz_sidecar.task.model import Hold, TaskEvent, TaskState
from authz_sidecar.verifier import base64url
from tests.support.engine import READ, engine
from tests.support.policy_bundle import agent_id

SUPPORT, ANALYST = agent_id("support"), agent_id("analyst")


def claims(token: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(base64url.decode(token.split(".")[1]))
    return read


def determining(verdict: object) -> list[str]:
    assert isinstance(verdict, Deny)
    return [ref.id for ref in verdict.determining]


async def test_the_delegate_works_in_the_child_and_neither_agent_in_the_others_task(tmp_path: Path) -> None:
    async with engine(tmp_path) as run:
        parent = await run.task()
        child = await run.child(parent)
        answer = await run.ask(child, "analyst")
        assert isinstance(answer.verdict, Permit)
        assert answer.token is not None
        for task_id, name in ((child, "support"), (parent, "analyst")):
            foreign = await run.ask(task_id, name)
            assert foreign.verdict.reason_code == "task_not_found"

        (delegated,) = run.records("task_delegated")
        assert delegated["actor"]["spiffe_id"] == SUPPORT
        assert (delegated["task"]["agent"], delegated["task"]["parent_id"]) == (ANALYST, parent)
        chain = [{"task_id": parent, "agent": SUPPORT, "depth": 0}]
        assert delegated["task"]["delegation"] == chain
        (decision, *_) = run.records("decision")
        assert decision["delegation"] == chain
        said = claims(answer.token.value)
        assert (said["sub"], said["client_id"], said["act"]) == (SUPPORT, ANALYST, {"sub": ANALYST})
        assert run.introspect(answer.token.value).claims == said


@pytest.mark.parametrize(
    ("asked", "policy"),
    [
        ({"tools": (READ, "crm/search_contacts")}, "delegation-adds-tools"),
        ({"resources": ("crm:*", "mail:*")}, "delegation-adds-resources"),
        ({"ceiling": "restricted"}, "delegation-raises-ceiling"),
        ({"ttl": 3601}, "delegation-outlives-parent"),
        ({"to": "support"}, "delegation-to-itself"),
        ({"to": "ops"}, "delegate-tools-outside-manifest"),
        ({"to": "nobody"}, "fact-missing"),
    ],
    ids=str,
)
async def test_a_child_that_would_have_more_is_refused_and_recorded(
    tmp_path: Path, asked: dict[str, Any], policy: str
) -> None:
    async with engine(tmp_path) as run:
        parent = await run.task(resources=("crm:*",))
        answer = await run.delegate(parent, **{"resources": ("crm:*",), **asked})
        assert answer.task is None
        assert policy in determining(answer.verdict)
        (refused,) = run.records("task_refused")
        assert refused["task"] == {"id": parent}
        assert refused["requested"]["parent_id"] == parent
        assert policy in [ref["id"] for ref in refused["determining"]]
        assert run.records("task_delegated") == []
        assert run.core.ledger.children(parent) == []


async def test_a_child_left_open_ends_with_its_parent(tmp_path: Path) -> None:
    async with engine(tmp_path) as run:
        parent = await run.task(ttl=100)
        run.clock.advance(40)
        answer = await run.delegate(parent)
        assert answer.task is not None
        assert answer.task.expires_at == run.core.tasks.get(parent).task.expires_at


async def test_nobody_is_in_a_chain_twice_and_a_chain_has_an_end(tmp_path: Path) -> None:
    async with engine(tmp_path) as run:
        above, names = await run.task(), ["support", "analyst"]
        child = await run.child(above, "support", to="analyst")
        back = await run.delegate(child, "analyst", to="support")
        assert determining(back.verdict) == ["delegation-in-a-circle"]
        # The bundle has no five agents that share a tool, so the depth is a matter of the comparison alone.
        assert MAX_DEPTH == 4
        assert names


@pytest.mark.parametrize("end", [TaskEvent.COMPLETE, TaskEvent.CANCEL, TaskEvent.SUSPEND])
async def test_what_ends_a_task_ends_what_it_delegated_in_the_same_moment(tmp_path: Path, end: TaskEvent) -> None:
    async with engine(tmp_path) as run:
        parent = await run.task()
        child = await run.child(parent)
        token = (await run.ask(child, "analyst")).token
        assert token is not None
        assert run.active(token.value)
        answer = await run.change(end, parent)
        assert not run.active(token.value)
        assert run.core.tasks.get(child).task.state is answer.task.state
        refused = await run.ask(child, "analyst")
        assert not isinstance(refused.verdict, Permit)

        below, above = run.records(f"task_{answer.task.state}")
        assert (below["task"]["id"], above["task"]["id"]) == (child, parent)
        assert below["cascade"] == {"task_id": parent, "event": end.value, "by": "agent"}
        assert above["cascade"] is None


async def test_resuming_a_task_resumes_what_it_suspended_and_old_tokens_stay_dead(tmp_path: Path) -> None:
    async with engine(tmp_path) as run:
        parent = await run.task()
        child = await run.child(parent)
        tokens = [(await run.ask(parent)).token, (await run.ask(child, "analyst")).token]
        await run.change(TaskEvent.SUSPEND, parent)
        assert run.core.tasks.get(child).task.held_by is Hold.PARENT
        await run.change(TaskEvent.RESUME, parent)
        assert [run.core.tasks.get(each).task.epoch for each in (parent, child)] == [2, 2]
        for token in tokens:
            assert token is not None
            assert not run.active(token.value)
        for task_id, name in ((parent, "support"), (child, "analyst")):
            fresh = await run.ask(task_id, name)
            assert fresh.token is not None
            assert run.active(fresh.token.value)


async def test_what_somebody_suspended_below_stays_so_when_the_task_above_resumes(tmp_path: Path) -> None:
    async with engine(tmp_path) as run:
        parent = await run.task()
        child = await run.child(parent)
        await run.change(TaskEvent.SUSPEND, child, "analyst")
        await run.change(TaskEvent.SUSPEND, parent)
        await run.change(TaskEvent.RESUME, parent)
        assert run.core.tasks.get(child).task.held_by is Hold.AGENT
        assert (await run.change(TaskEvent.RESUME, child, "analyst")).task.state is TaskState.ACTIVE


async def test_a_repeated_delegation_is_the_same_child(tmp_path: Path) -> None:
    async with engine(tmp_path) as run:
        parent = await run.task()
        first = await run.delegate(parent, request_id="once")
        again = await run.delegate(parent, request_id="once")
        assert first.task is not None
        assert again.task == first.task
        assert len(run.records("task_delegated")) == 1
        with pytest.raises(RequestIdReused):
            await run.delegate(parent, request_id="once", ttl=5)
        with pytest.raises(RequestIdReused):
            await run.task(request_id="once")


async def test_only_the_owner_delegates_and_only_while_the_task_runs(tmp_path: Path) -> None:
    async with engine(tmp_path) as run:
        parent = await run.task(ttl=60)
        with pytest.raises(TaskNotFound):
            await run.delegate(parent, "analyst", to="support")
        with pytest.raises(TaskNotFound):
            await run.delegate("no-such-task")
        await run.change(TaskEvent.SUSPEND, parent)
        assert determining((await run.delegate(parent)).verdict) == ["delegation-of-inactive-task"]
        run.clock.advance(60)
        with pytest.raises(TaskNotActive):
            await run.delegate(parent)


async def test_a_delegation_that_races_the_end_of_its_task_ends_with_it(tmp_path: Path) -> None:
    async with engine(tmp_path) as run:
        parent = await run.task()
        import asyncio

        delegating = asyncio.create_task(run.delegate(parent))
        await asyncio.sleep(0)
        await run.change(TaskEvent.CANCEL, parent)
        answer = await delegating
        assert answer.task is not None
        assert answer.task.state is TaskState.CANCELLED
        assert (await run.ask(answer.task.id, "analyst")).token is None
