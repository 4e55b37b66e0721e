"""Opening a ledger refuses evident damage, a rolled-back volume, another key and a clock that is behind."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from authz_sidecar.errors import ClockBehind, IntegrityFailure, OperatorError
from authz_sidecar.ledger.filters import QueryFilter
from authz_sidecar.ledger.note import Signer
from authz_sidecar.ledger.schema import DATABASE
from authz_sidecar.ledger.verify import verify
from tests.support.faulty_sqlite import Faults
from tests.support.ledger import ORIGIN, SIGNER, START, Clock, decision, open_ledger


async def write(directory: Path, count: int, *, unsigned: int = 0) -> str:
    """A ledger of `count` signed entries. With `unsigned` more behind them it looks as after a crash."""
    ledger = open_ledger(directory)
    for number in range(count):
        await ledger.append(decision(f"d-{number}"))
    note = await ledger.checkpoint_now()
    for number in range(unsigned):
        await ledger.append(decision(f"u-{number}"))
    await ledger.close()
    if unsigned:
        change(directory, f"DELETE FROM checkpoint WHERE size > {count}", "UPDATE log SET clean = 0")  # noqa: S608
    return note


def change(directory: Path, *statements: str) -> None:
    connection = sqlite3.connect(directory / DATABASE, isolation_level=None)
    for statement in statements:
        assert connection.execute(statement).rowcount > 0, statement
    connection.close()


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DELETE FROM entry WHERE idx = 299", "the newest were removed"),
        ("DELETE FROM checkpoint", "no checkpoint"),
        ("DELETE FROM checkpoint WHERE size = 300", "was closed, but its newest checkpoint covers 0 of 300"),
        ("UPDATE checkpoint SET note = replace(note, '300', '299') WHERE size = 300", "not genuine"),
        ("UPDATE checkpoint SET size = 299 WHERE size = 300", "stored under size 299"),
        ("UPDATE entry SET leaf_hash = zeroblob(32) WHERE idx = 280", "do not lead to the signed root"),
        ("UPDATE node SET hash = zeroblob(32)", "do not lead to the signed root"),
        ("DELETE FROM node", "stored hashes are gone"),
        ("DELETE FROM record_index WHERE idx = 299", "the record index ends at 299"),
        ("UPDATE entry SET body = zeroblob(9) WHERE idx = 299", "entry 299 does not match"),
        ("DELETE FROM log", "lost its `log` row"),
        ("DROP TABLE entry", "damaged"),
    ],
)
async def test_a_signed_log_that_was_altered_is_not_continued(tmp_path: Path, statement: str, says: str) -> None:
    await write(tmp_path, 300)
    connection = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
    connection.execute(statement)
    connection.close()
    # Twice: refusing must not leave the directory locked or altered.
    for _ in range(2):
        with pytest.raises(IntegrityFailure, match=says) as caught:
            open_ledger(tmp_path)
        assert "keep the directory as evidence" in str(caught.value)


@pytest.mark.parametrize(
    ("statements", "says"),
    [
        (["UPDATE entry SET body = zeroblob(9) WHERE idx = 290"], "entry 290 does not match"),
        (["DELETE FROM entry WHERE idx = 291"], "entry 291 is missing"),
        (["UPDATE node SET hash = zeroblob(32)"], "tile 0 of level 1"),
    ],
)
async def test_entries_behind_the_newest_checkpoint_are_hashed_again(
    tmp_path: Path, statements: list[str], says: str
) -> None:
    await write(tmp_path, 200, unsigned=100)
    change(tmp_path, *statements)
    with pytest.raises(IntegrityFailure, match=says):
        open_ledger(tmp_path)


async def test_an_unclean_stop_is_recorded_and_a_clean_one_is_not(tmp_path: Path) -> None:
    await write(tmp_path, 5, unsigned=3)
    ledger = open_ledger(tmp_path)
    (recovery,) = ledger.query(QueryFilter(types=("recovery",)))
    assert recovery.index == 8
    await ledger.close()
    ledger = open_ledger(tmp_path)
    assert ledger.size == 9
    await ledger.close()
    assert verify(tmp_path, vkey=SIGNER.vkey).kind == "verified_unanchored"


async def test_a_volume_rolled_back_behind_a_witnessed_checkpoint_is_refused(tmp_path: Path) -> None:
    await write(tmp_path / "old", 10)
    newer = await write(tmp_path / "new", 20)
    with pytest.raises(IntegrityFailure, match="rolled back"):
        open_ledger(tmp_path / "old", witnessed=newer)
    with pytest.raises(IntegrityFailure, match="there was a ledger here before"):
        open_ledger(tmp_path / "empty", witnessed=newer)
    with pytest.raises(OperatorError, match="witnessed checkpoint"):
        open_ledger(tmp_path / "new", witnessed="not a checkpoint")
    await open_ledger(tmp_path / "new", witnessed=newer).close()


async def test_a_log_other_than_the_witnessed_one_is_refused(tmp_path: Path) -> None:
    witnessed = await write(tmp_path / "one", 10)
    ledger = open_ledger(tmp_path / "other")
    for number in range(12):
        await ledger.append(decision(f"other-{number}"))
    await ledger.close()
    with pytest.raises(IntegrityFailure, match="not those that were witnessed"):
        open_ledger(tmp_path / "other", witnessed=witnessed)


async def test_another_signing_key_is_the_operators_mistake(tmp_path: Path) -> None:
    await write(tmp_path, 3)
    for signer in (Signer(ORIGIN, bytes(32)), Signer("another", bytes(range(32)))):
        with pytest.raises(OperatorError, match="configured key"):
            open_ledger(tmp_path, signer=signer)


async def test_another_format_is_refused_without_touching_it(tmp_path: Path) -> None:
    await write(tmp_path, 3)
    change(tmp_path, "UPDATE log SET format = 2")
    with pytest.raises(OperatorError, match="format 2, this version reads 1"):
        open_ledger(tmp_path)


async def test_a_failure_while_opening_releases_the_directory(tmp_path: Path) -> None:
    faults = Faults()
    faults.fail_on = lambda sql: sql.startswith("UPDATE log SET epoch")
    with pytest.raises(OperatorError, match="cannot open the ledger"):
        open_ledger(tmp_path, connect=faults.connect)
    await open_ledger(tmp_path).close()


async def test_a_clock_behind_the_newest_entry_stops_the_start(tmp_path: Path) -> None:
    await write(tmp_path, 3)
    behind = START - timedelta(seconds=10)
    with pytest.raises(ClockBehind, match="10 s behind"):
        open_ledger(tmp_path, now=Clock(behind))
    ledger = open_ledger(tmp_path, now=Clock(START - timedelta(seconds=1)))
    assert ledger.last_time == START
    await ledger.close()


async def test_times_never_go_back_and_a_step_is_recorded_once(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    for seconds in (0, 10, 9, 8.5, 3, 2, 1, 11, 5, 20):
        await ledger.append(decision(f"at-{seconds}", at=START + timedelta(seconds=seconds)))
    entries = list(ledger.query(QueryFilter()))
    times = [str(entry.record["time"]) for entry in entries]
    assert times == sorted(times)
    assert ledger.last_time == START + timedelta(seconds=20)
    steps = [(entry.index, entry.record["clock_step"]) for entry in entries if entry.record["type"] == "clock_step"]
    # 9 and 8.5 are within the tolerance of two seconds; 3, 2 and 1 are one step; 5 after 11 is another.
    assert steps == [
        (4, {"from": "2026-03-01T12:00:10.000000Z", "to": "2026-03-01T12:00:03.000000Z"}),
        (9, {"from": "2026-03-01T12:00:11.000000Z", "to": "2026-03-01T12:00:05.000000Z"}),
    ]
    await ledger.close()
    assert verify(tmp_path, vkey=SIGNER.vkey).kind == "verified_unanchored"
