"""Revocation beside a disk that hangs or is full: it counts at once, is told when durable, and is undone when refused."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from authz_sidecar.engine.feed import FeedMessage, FeedOptions, Heartbeat, RevocationFeed, Snapshot
from authz_sidecar.engine.revoke import RevokeToken, revoke_command
from authz_sidecar.engine.suspend import ChangeStanding
from authz_sidecar.errors import (
    BehindCaller,
    DeadlineExceeded,
    GrantRevoked,
    LedgerUnavailable,
    Overloaded,
    Unavailable,
)
from authz_sidecar.ledger.verify import verify
from authz_sidecar.pdp.verdict import Deny
from authz_sidecar.revoked import Revocation
from tests.support.engine import Engine, engine, subject
from tests.support.ledger import SIGNER
from tests.support.policy_bundle import agent_id
from tests.support.slow_disk import SlowDisk

OPERATOR = subject("operator")


async def token_of(made: Engine, task_id: str) -> str:
    answer = await made.ask(task_id)
    assert answer.token is not None
    return answer.token.value


def active(made: Engine, token: str) -> bool:
    return made.introspect(token).claims is not None


async def several_turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_revocation_counts_before_it_is_durable_and_is_told_only_then(tmp_path: Path) -> None:
    disk = SlowDisk()
    told: list[Revocation] = []
    async with engine(tmp_path / "l", connect=disk.connect) as made:
        made.core.revocations.follow(told.append)
        token = await token_of(made, task_id := await made.task())
        disk.hang()
        revoking = asyncio.create_task(
            RevokeToken(made.core)(OPERATOR, revoke_command("task_id", task_id, ""), any_agent=True)
        )
        await several_turns()
        assert not active(made, token)
        assert (told, revoking.done()) == ([], False)
        disk.resume()
        answer = await revoking
        assert [one.sequence for one in told] == [answer.revocation_epoch]
        assert active(made, await token_of(made, task_id))


async def test_a_permit_overtaken_by_a_suspension_never_leaves(tmp_path: Path) -> None:
    disk = SlowDisk()
    async with engine(tmp_path / "l", connect=disk.connect) as made:
        task_id = await made.task()
        disk.hang()
        asking = asyncio.create_task(made.ask(task_id))
        await several_turns()
        stopping = asyncio.create_task(ChangeStanding(made.core).suspend(OPERATOR, agent_id("support"), "odd"))
        await several_turns()
        later = asyncio.create_task(made.ask(task_id))
        await several_turns()
        disk.resume()
        with pytest.raises(GrantRevoked):
            await asking
        await stopping
        assert isinstance((await later).verdict, Deny)
        await made.core.voids.written(10)
        assert made.types() == ["task_started", "decision", "agent_suspended", "decision", "grant_void"]
    assert verify(tmp_path / "l", vkey=SIGNER.vkey).kind == "verified_unanchored"


async def test_a_revocation_that_is_refused_is_undone_and_its_number_given_again(tmp_path: Path) -> None:
    disk = SlowDisk()
    told: list[Revocation] = []
    async with engine(tmp_path / "l", connect=disk.connect) as made:
        made.core.revocations.follow(told.append)
        revoke, standing = RevokeToken(made.core), ChangeStanding(made.core)
        token = await token_of(made, task_id := await made.task())
        command = revoke_command("token", token, "")
        disk.fill()
        for work in (
            lambda: revoke(OPERATOR, command, any_agent=True),
            lambda: standing.suspend(OPERATOR, "*", "stop"),
        ):
            with pytest.raises(LedgerUnavailable):
                await work()
        disk.fill(False)
        assert (told, made.core.revocations.epoch) == ([], 0)
        assert active(made, token)
        late = await token_of(made, task_id)
        answer = await revoke(OPERATOR, command, any_agent=True)
        assert (answer.revocation_epoch, [one.sequence for one in told]) == (1, [1])
        assert not active(made, token)
        assert active(made, late)


async def test_an_answer_that_came_too_late_leaves_memory_and_ledger_of_one_mind(tmp_path: Path) -> None:
    """The caller gave up; the record landed. Asking again waits for it, and finds it."""
    disk = SlowDisk()
    async with engine(tmp_path / "l", deadline=timedelta(milliseconds=200), connect=disk.connect) as made:
        standing, revoke = ChangeStanding(made.core), RevokeToken(made.core)
        task_id = await made.task()
        await standing.suspend(OPERATOR, agent_id("support"), "odd")
        unknown = revoke_command("jti", "j", "")
        disk.hang()
        for work in (standing.resume(OPERATOR, agent_id("support"), "fine"), revoke(OPERATOR, unknown, any_agent=True)):
            with pytest.raises(DeadlineExceeded):
                await work
        again = asyncio.gather(
            standing.resume(OPERATOR, agent_id("support"), "fine"), revoke(OPERATOR, unknown, any_agent=True)
        )
        await several_turns()
        disk.resume()
        await again
        assert (await made.ask(task_id)).token is not None
        types = made.types()
        assert (types.count("agent_resumed"), types.count("token_revoked")) == (1, 1)


async def test_a_watcher_that_does_not_keep_up_is_dropped_and_may_come_back(tmp_path: Path) -> None:
    async with engine(tmp_path / "l") as made:
        options = FeedOptions(heartbeat=timedelta(milliseconds=5), most_queued=3, most_watchers=2)
        feed = RevocationFeed(made.core.ledger, now=made.clock, options=options)
        made.core.revocations.follow(feed.publish)
        revoke = RevokeToken(made.core)
        slow, quick = feed.watch(0), feed.watch(0)
        seen: list[FeedMessage] = [await anext(slow), await anext(quick)]
        with pytest.raises(Overloaded, match="watchers follow"):
            await anext(feed.watch(0))
        for number in range(5):
            await revoke(OPERATOR, revoke_command("jti", f"j{number}", ""), any_agent=True)
            while isinstance(message := await anext(quick), Heartbeat):
                pass
            seen.append(message)
        with pytest.raises(Overloaded, match="behind"):
            await anext(slow)
        assert feed.watchers == 1
        back = feed.watch(2)
        assert [message.sequence for message in [await anext(back) for _ in range(4)]] == [3, 4, 5, 5]
        await back.aclose()
        with pytest.raises(BehindCaller):
            await anext(feed.watch(6))
        feed.close()
        with pytest.raises(Unavailable):
            while True:
                await anext(quick)
        assert feed.watchers == 0


async def test_a_long_snapshot_comes_in_parts_that_belong_together(tmp_path: Path) -> None:
    async with engine(tmp_path / "l") as made:
        options = FeedOptions(heartbeat=timedelta(milliseconds=5), part=2)
        feed = RevocationFeed(made.core.ledger, now=made.clock, options=options)
        revoke = RevokeToken(made.core)
        for number in range(5):
            await revoke(OPERATOR, revoke_command("jti", f"j{number}", ""), any_agent=True)
        watch = feed.watch(0)
        parts = [await anext(watch) for _ in range(3)]
        assert [(len(part.revocations), part.more) for part in parts if isinstance(part, Snapshot)] == [
            (2, True), (2, True), (1, False),
        ]  # fmt: skip
        await watch.aclose()
        made.clock.advance(400)
        watch = feed.watch(0)
        assert await anext(watch) == Snapshot(5, (), more=False)
        await watch.aclose()
