"""The timeline of a task ties decisions to tokens and outcomes, and names the permits nobody reported on."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

from authz_sidecar.audit.tail import follow
from authz_sidecar.audit.timeline import Timeline, timeline
from authz_sidecar.ledger.reader import LedgerReader
from tests.support.ledger import AGENT, START, decision, grant_void, open_ledger, outcome, task_changed, task_started


async def test_decisions_are_tied_to_their_tokens_and_outcomes(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    records = [
        task_started("t"),
        decision("other", task_id="another task"),
        decision("reported", task_id="t", at=START + timedelta(seconds=1)),
        decision("denied", task_id="t", outcome="deny", tool="mail/send"),
        decision("forgotten", task_id="t"),
        decision("voided", task_id="t"),
        outcome("reported", 2, task_id="t"),
        outcome("reported", 2, task_id="t"),
        grant_void("voided", 5, task_id="t"),
        task_changed("t", "completed"),
    ]
    for record in records:
        await ledger.append(record)
    found = timeline(ledger, "t")
    await ledger.close()

    assert [event.index for event in found.events] == [0, 2, 3, 4, 5, 6, 7, 8, 9]
    assert found.missing_outcomes == ("forgotten",)
    reported, denied, _, voided = found.events[1:5]
    assert (reported.jti, reported.outcome_index, reported.void) == ("jti-reported", 6, False)
    assert (reported.tool, reported.resource, reported.result) == ("crm/read_contact", "contact/17", "permit")
    assert (reported.actor, reported.time) == (AGENT, START + timedelta(seconds=1))
    assert (denied.jti, denied.result, denied.reason, denied.outcome_index) == ("", "deny", "no_permit", None)
    assert (voided.outcome_index, voided.void) == (None, True)
    assert [(event.type, event.result, event.decision_id) for event in found.events[5:]] == [
        ("outcome", "succeeded", "reported"),
        ("outcome", "succeeded", "reported"),
        ("grant_void", "", "voided"),
        ("task_completed", "completed", ""),
    ]


async def test_an_unknown_task_has_an_empty_timeline(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await ledger.append(task_started("t"))
    for unknown in ("T", ""):
        assert timeline(ledger, unknown) == Timeline((), ())
    await ledger.close()


async def test_following_yields_every_entry_once_while_the_log_grows(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await asyncio.gather(*(ledger.append(decision(f"d-{number}")) for number in range(5)))
    rounds = [3, 0, 2]

    def collect() -> list[int]:
        with LedgerReader.open(tmp_path) as reader:
            return [entry.index for entry in follow(reader, start=-2, pause=pause)]

    loop = asyncio.get_running_loop()

    def pause() -> bool:
        if not rounds:
            return False
        for _ in range(rounds.pop()):
            asyncio.run_coroutine_threadsafe(_append(), loop).result()
        return True

    async def _append() -> None:
        await ledger.append(decision(f"d-{ledger.size}"))

    assert await asyncio.to_thread(collect) == [3, 4, 5, 6, 7, 8, 9]
    await ledger.close()
