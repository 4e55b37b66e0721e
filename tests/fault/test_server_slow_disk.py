"""A disk that is slower than the deadline: no token leaves, and what lands later permits nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from authz_sidecar.errors import (
    DeadlineExceeded,
    GrantExpired,
    LedgerUnavailable,
    Overloaded,
    TaskNotActive,
)
from authz_sidecar.ledger.filters import QueryFilter
from authz_sidecar.ledger.options import LedgerOptions
from authz_sidecar.pdp.verdict import ApprovalRequired, Deny, Permit
from tests.support.engine import READ, Engine, engine, start, subject
from tests.support.slow_disk import SlowDisk

SOON = timedelta(milliseconds=50)
POST = "mail/send_external"


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(5000):
        if holds():
            return
        await asyncio.sleep(0.002)
    pytest.fail("it did not happen within 10 s")


async def expect_expired(run: Engine, task_id: str, request_id: str) -> None:
    with pytest.raises(GrantExpired):
        await run.ask(task_id, request_id=request_id)


async def test_a_permit_that_lands_after_its_deadline_is_voided_and_never_revived(tmp_path: Path) -> None:
    disk = SlowDisk()
    async with engine(tmp_path, connect=disk.connect, deadline=SOON) as run:
        task_id = await run.task()
        disk.hang()
        with pytest.raises(DeadlineExceeded, match=r"not durable within 0\.05 s"):
            await run.ask(task_id, request_id="late")
        await expect_expired(run, task_id, "late")
        disk.let_through()
        await until(lambda: run.core.ledger.size == 2)
        # The permit is in the ledger, and the record that voids it is not: nothing may slip through between the two.
        for _ in range(5):
            await expect_expired(run, task_id, "late")
            await asyncio.sleep(0)
        disk.resume()
        await until(lambda: run.core.ledger.size == 3)
        await expect_expired(run, task_id, "late")

        decision, void = (run.core.ledger.entry(index) for index in (1, 2))
        assert decision is not None
        assert void is not None
        assert (decision.record["outcome"], void.record["type"]) == ("permit", "grant_void")
        assert void.record["decision"] == {"id": decision.record["id"], "index": 1}
        assert void.record["reason"] == "append_deadline"
        assert (await run.ask(task_id)).token is not None
    async with engine(tmp_path) as run:
        await expect_expired(run, task_id, "late")


async def test_a_repetition_that_waits_beside_a_voided_request_gets_no_token_either(tmp_path: Path) -> None:
    disk = SlowDisk()
    async with engine(tmp_path, connect=disk.connect, deadline=4 * SOON) as run:
        task_id = await run.task()
        disk.hang()
        first = asyncio.create_task(run.ask(task_id, request_id="twice"))
        await asyncio.sleep(3 * SOON.total_seconds())
        second = asyncio.create_task(run.ask(task_id, request_id="twice"))
        with pytest.raises(DeadlineExceeded):
            await first
        disk.resume()
        with pytest.raises(GrantExpired):
            await second
        await until(lambda: run.types() == ["task_started", "decision", "grant_void"])


async def test_a_void_that_finds_the_disk_full_is_written_when_there_is_space(tmp_path: Path) -> None:
    disk = SlowDisk()
    async with engine(tmp_path, connect=disk.connect, deadline=SOON) as run:
        task_id = await run.task()
        disk.hang()
        with pytest.raises(DeadlineExceeded):
            await run.ask(task_id, request_id="late")
        disk.let_through()
        await until(lambda: run.core.ledger.size == 2)
        disk.fill()
        disk.resume()
        with pytest.raises(LedgerUnavailable, match="disk is full"):
            await run.ask(task_id)
        await expect_expired(run, task_id, "late")
        disk.fill(False)
        await run.core.voids.written(10)
        assert run.types() == ["task_started", "decision", "grant_void"]


async def test_a_request_that_was_refused_is_decided_anew_under_its_id(tmp_path: Path) -> None:
    disk = SlowDisk()
    async with engine(tmp_path, connect=disk.connect) as run:
        task_id = await run.task()
        disk.fill()
        with pytest.raises(LedgerUnavailable):
            await run.ask(task_id, request_id="again")
        disk.fill(False)
        answer = await run.ask(task_id, request_id="again")
        assert (answer.recalled, answer.token is not None, answer.position.index) == (False, True, 1)


async def test_an_end_that_lands_after_its_deadline_still_ends_the_task(tmp_path: Path) -> None:
    disk = SlowDisk()
    async with engine(tmp_path, connect=disk.connect, deadline=SOON) as run:
        task_id = await run.task()
        token = (await run.ask(task_id)).token
        assert token is not None
        disk.hang()
        with pytest.raises(DeadlineExceeded):
            await run.complete_task(subject(), task_id, "")
        # Whatever is decided meanwhile must not bring the task back to life.
        with pytest.raises(DeadlineExceeded):
            await run.ask(task_id)
        disk.resume()
        await until(lambda: "task_completed" in run.types())
        assert isinstance((await run.ask(task_id)).verdict, Deny)
        assert run.introspect(token.value).claims is None
        with pytest.raises(TaskNotActive):
            await run.complete_task(subject(), task_id, "")


async def test_an_end_whose_caller_went_away_still_ends_the_task(tmp_path: Path) -> None:
    disk = SlowDisk()
    async with engine(tmp_path, connect=disk.connect) as run:
        task_id = await run.task()
        token = (await run.ask(task_id)).token
        assert token is not None
        disk.hang()
        ending = asyncio.create_task(run.complete_task(subject(), task_id, ""))
        await asyncio.sleep(0.01)
        ending.cancel()
        asked = asyncio.create_task(run.ask(task_id))
        await asyncio.sleep(0.01)
        disk.resume()
        assert isinstance((await asked).verdict, Deny)
        assert run.introspect(token.value).claims is None


async def test_an_end_that_is_refused_leaves_the_task_as_it_was(tmp_path: Path) -> None:
    disk = SlowDisk()
    async with engine(tmp_path, connect=disk.connect) as run:
        task_id = await run.task()
        disk.fill()
        with pytest.raises(LedgerUnavailable):
            await run.complete_task(subject(), task_id, "")
        disk.fill(False)
        assert (await run.ask(task_id)).token is not None
        await run.complete_task(subject(), task_id, "")
        assert isinstance((await run.ask(task_id)).verdict, Deny)


async def test_too_many_waiting_records_do_not_make_the_sidecar_forget_an_end(tmp_path: Path) -> None:
    disk = SlowDisk()
    async with engine(tmp_path, connect=disk.connect, options=LedgerOptions(max_queued=2)) as run:
        task_id = await run.task()
        token = (await run.ask(task_id)).token
        assert token is not None
        disk.hang()
        asked = asyncio.create_task(run.ask(task_id))
        await asyncio.sleep(0.01)
        ending = asyncio.create_task(run.complete_task(subject(), task_id, ""))
        await asyncio.sleep(0.01)
        # Anybody may name the task, so it is refused to its owner and to a stranger.
        for name in ("support", "analyst"):
            with pytest.raises(Overloaded):
                await run.ask(task_id, name)
        disk.let_through()
        with pytest.raises(TaskNotActive, match="ended while the decision was being recorded"):
            await asked
        # The first record is durable, the end is not: there is room for one more decision.
        denied = asyncio.create_task(run.ask(task_id))
        await asyncio.sleep(0.01)
        disk.resume()
        await ending
        assert isinstance((await denied).verdict, Deny)
        assert run.introspect(token.value).claims is None
        await run.core.voids.written(10)
        permits = [e.index for e in run.core.ledger.query(QueryFilter(types=("decision",), outcome="permit"))]
        assert max(permits) < run.types().index("task_completed")


async def test_too_many_waiting_records_do_not_make_the_sidecar_forget_what_was_read(tmp_path: Path) -> None:
    disk = SlowDisk()
    async with engine(tmp_path, connect=disk.connect, options=LedgerOptions(max_queued=2)) as run:
        task_id = await run.task("analyst", tools=(READ, POST), ceiling="restricted")
        post = {"tool": POST, "arguments": None, "resource": "mail:outside/customer.example"}
        assert isinstance((await run.ask(task_id, "analyst", **post)).verdict, ApprovalRequired)
        disk.hang()
        one = asyncio.create_task(run.ask(task_id, "analyst"))
        await asyncio.sleep(0.01)
        two = asyncio.create_task(run.ask(task_id, "analyst", arguments=b'{"contact_id":"vip-7"}'))
        await asyncio.sleep(0.01)
        for name in ("analyst", "support"):
            with pytest.raises(Overloaded):
                await run.ask(task_id, name, **post)
        disk.let_through()
        await one
        posting = asyncio.create_task(run.ask(task_id, "analyst", **post))
        await asyncio.sleep(0.01)
        disk.resume()
        assert isinstance((await two).verdict, Permit)
        verdict = (await posting).verdict
        assert isinstance(verdict, Deny)
        assert "no-posting-after-restricted-read" in [ref.id for ref in verdict.determining]


async def test_starting_a_task_again_while_the_first_start_hangs_ends_at_the_deadline(tmp_path: Path) -> None:
    disk = SlowDisk()
    async with engine(tmp_path, connect=disk.connect, deadline=SOON) as run:
        disk.hang()
        command = start(request_id="once")
        for _ in range(2):
            with pytest.raises(DeadlineExceeded):
                await asyncio.wait_for(run.start_task(subject(), command), 5)
        disk.resume()
        await until(lambda: run.core.ledger.size == 1)
        answer = await run.start_task(subject(), command)
        assert answer.recalled
        assert answer.task is not None
        assert (await run.ask(answer.task.id)).token is not None
