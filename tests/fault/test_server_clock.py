"""A clock that is set back under the running sidecar: no answer, no token, and no record out of order."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from authz_sidecar.errors import ClockBehind
from authz_sidecar.ledger.verify import verify
from tests.support.engine import engine, start, subject
from tests.support.ledger import SIGNER


async def test_nothing_is_answered_while_the_clock_is_behind_and_all_is_when_it_caught_up(tmp_path: Path) -> None:
    async with engine(tmp_path) as run:
        task_id = await run.task()
        token = (await run.ask(task_id, request_id="before")).token
        assert token is not None
        size = run.core.ledger.size

        run.clock.advance(-10)
        with pytest.raises(ClockBehind, match="10 s behind the newest ledger entry; correct the clock"):
            await run.ask(task_id)
        # Nor is an earlier permit repeated, a token vouched for, a task started or ended.
        with pytest.raises(ClockBehind):
            await run.ask(task_id, request_id="before")
        with pytest.raises(ClockBehind):
            run.introspect(token.value)
        with pytest.raises(ClockBehind):
            await run.start_task(subject(), start())
        with pytest.raises(ClockBehind):
            await run.complete_task(subject(), task_id, "")
        assert run.core.ledger.size == size

        run.clock.advance(9)
        within = await run.ask(task_id)
        assert within.token is not None
        # Its `iat` is ahead of the wall clock, by less than the tolerance.
        assert run.introspect(within.token.value).claims is not None
        times = [str(entry.record["time"]) for entry in map(run.core.ledger.entry, range(size + 1)) if entry]
        assert times == sorted(times)
    assert verify(tmp_path, vkey=SIGNER.vkey).kind == "verified_unanchored"


async def test_a_token_does_not_live_longer_because_the_clock_was_set_back(tmp_path: Path) -> None:
    async with engine(tmp_path) as run:
        task_id = await run.task()
        run.clock.advance(60)
        before = await run.ask(task_id)
        run.clock.advance(-1.5)
        after = await run.ask(task_id)
        assert before.token is not None
        assert after.token is not None
        assert after.token.expires_at - before.token.expires_at < timedelta(seconds=1)
