"""Files that vanish, are replaced, fill up or cannot be written: detected within one batch, and never written past."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from authz_sidecar.errors import IntegrityFailure, LedgerUnavailable, OperatorError
from authz_sidecar.ledger.store import Ledger, LedgerOptions
from authz_sidecar.ledger.verify import verify
from tests.support.faulty_sqlite import Faults, is_writer, sqlite_error
from tests.support.ledger import SIGNER, bundle_activated, decision, open_ledger


def _delete(path: Path) -> None:
    path.unlink()


def _rename(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))


def _replace(path: Path) -> None:
    copy = path.with_suffix(".copy")
    shutil.copyfile(path, copy)
    copy.rename(path)


@pytest.mark.parametrize("name", ["ledger.db", "ledger.db-wal"])
@pytest.mark.parametrize("damage", [_delete, _rename, _replace])
async def test_a_file_that_changes_under_the_writer_is_noticed_in_the_same_batch(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    ledger = open_ledger(tmp_path)
    await ledger.append(decision("before"))
    damage(tmp_path / name)
    with pytest.raises(LedgerUnavailable, match=name):
        await ledger.append(decision("after"))
    assert name in (ledger.poisoned or "")
    await ledger.close()


async def test_a_directory_that_is_moved_away_is_noticed(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger")
    await ledger.append(decision("before"))
    (tmp_path / "ledger").rename(tmp_path / "elsewhere")
    with pytest.raises(LedgerUnavailable, match="deleted or renamed"):
        await ledger.append(decision("after"))
    await ledger.close()


async def test_a_deleted_file_is_noticed_without_any_traffic(tmp_path: Path) -> None:
    noticed = asyncio.Event()
    ledger = open_ledger(tmp_path, on_poison=lambda _: noticed.set())
    await ledger.append(decision("before"))
    (tmp_path / "ledger.db").unlink()
    await asyncio.wait_for(noticed.wait(), timeout=5)
    await ledger.close()


async def test_a_database_deleted_while_stopped_is_not_silently_begun_anew(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await ledger.append(decision("d-1"))
    await ledger.close()
    (tmp_path / "ledger.db").unlink()
    with pytest.raises(IntegrityFailure, match="there was a ledger here before"):
        open_ledger(tmp_path)


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000])
async def test_a_database_overwritten_while_stopped_is_refused(tmp_path: Path, content: bytes) -> None:
    await open_ledger(tmp_path).close()
    (tmp_path / "ledger.db").write_bytes(content)
    with pytest.raises(IntegrityFailure, match="keep the directory as evidence"):
        open_ledger(tmp_path)


async def test_a_full_disk_refuses_the_batch_and_what_was_queued_behind_it_then_recovers(tmp_path: Path) -> None:
    faults = Faults()
    faults.error = sqlite_error("database or disk is full", sqlite3.SQLITE_FULL)
    ledger = open_ledger(tmp_path, connect=faults.connect, options=LedgerOptions(max_batch=2))
    await ledger.append(decision("d-0"))
    faults.fail_on = _once(lambda sql: sql.startswith("INSERT INTO incoming"))
    # Three batches of two: the first fails, the others were decided in the belief that it would hold.
    results = await asyncio.gather(
        *(ledger.append(decision(f"refused-{number}")) for number in range(6)), return_exceptions=True
    )
    assert {type(result) for result in results} == {LedgerUnavailable}
    assert "disk is full" in str(results[0])
    assert ledger.poisoned is None
    assert (await ledger.append(decision("d-1"))).index == 1
    assert ledger.load_session("task-1")["calls"] == 2
    await ledger.close()
    assert verify(tmp_path, vkey=SIGNER.vkey).size == 2


def _once(matches: Callable[[str], bool]) -> Callable[[str], bool]:
    left = [1]

    def fail(sql: str) -> bool:
        if left and matches(sql):
            left.pop()
            return True
        return False

    return fail


async def test_a_database_that_may_not_grow_refuses_reads_on_and_recovers_when_it_may(tmp_path: Path) -> None:
    """SQLite's own page limit gives the real SQLITE_FULL, from inside a statement."""
    writers: list[sqlite3.Connection] = []

    def connect(*arguments: object, **options: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = sqlite3.connect(*arguments, **options)  # type: ignore[call-overload]
        if is_writer(str(arguments[0])):
            writers.append(connection)
        return connection

    ledger = open_ledger(tmp_path, connect=connect)
    await ledger.append(decision("d-0"))
    writers[0].execute("PRAGMA max_page_count = 60")
    stored, refused = 1, 0
    for number in range(1, 60):
        try:
            await ledger.append(decision(f"d-{number}", filler="x" * 9000))
            stored += 1
        except LedgerUnavailable:
            refused += 1
    assert stored > 3
    assert refused > 3
    assert ledger.poisoned is None
    assert ledger.decision("d-1") is not None
    writers[0].execute("PRAGMA max_page_count = 100000")
    assert (await ledger.append(decision("again"))).index == stored
    await ledger.close()
    result = verify(tmp_path, vkey=SIGNER.vkey)
    assert (result.kind, result.size) == ("verified_unanchored", stored + 1)


@pytest.fixture
def tiny_volume(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A volume of 2 MiB, where the machine lets us mount one."""
    volume = tmp_path / "volume"
    volume.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(volume)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting needs privileges that this machine does not give")
    yield volume
    subprocess.run(["umount", "--lazy", str(volume)], check=True)  # noqa: S607


async def test_a_real_full_volume_refuses_and_recovers_when_space_returns(tiny_volume: Path) -> None:
    ballast = tiny_volume / "ballast"
    ballast.write_bytes(bytes(1024 * 1024))
    ledger = open_ledger(tiny_volume / "ledger")
    stored = 0
    with pytest.raises(LedgerUnavailable, match="disk is full"):
        for number in range(1000):
            await ledger.append(decision(f"d-{number}", filler="x" * 5000))
            stored += 1
    assert ledger.poisoned is None
    assert ledger.load_session("task-1")["calls"] == stored
    ballast.unlink()
    assert (await ledger.append(decision("again"))).index == stored
    await ledger.close()
    assert verify(tiny_volume / "ledger", vkey=SIGNER.vkey).size == stored + 1


async def test_a_second_writer_is_told_who_has_the_ledger(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    with pytest.raises(OperatorError, match=f"in use by process {os.getpid()}"):
        open_ledger(tmp_path)
    await ledger.append(decision("still writing"))
    await ledger.close()
    await open_ledger(tmp_path).close()


async def test_a_writer_that_was_overtaken_cannot_commit(tmp_path: Path) -> None:
    stale = open_ledger(tmp_path)
    await stale.append(decision("d-0"))
    # Somebody removes the lock file, so that a second process gets a lock of its own.
    (tmp_path / "LOCK").unlink()
    owner = open_ledger(tmp_path)
    with pytest.raises(LedgerUnavailable, match="another process took the ledger over"):
        await stale.append(decision("stale"))
    assert (await owner.append(decision("d-1"))).index == 2
    assert owner.decision("stale") is None
    await stale.close()
    await owner.close()
    assert verify(tmp_path, vkey=SIGNER.vkey).size == 3


async def test_a_place_that_cannot_hold_a_ledger_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="must be a directory"):
        open_ledger(tmp_path / "file")


async def test_the_directory_and_its_files_are_private(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger")
    await ledger.append(decision("d-1"))
    assert (tmp_path / "ledger").stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "ledger").iterdir()}
    assert modes == dict.fromkeys(["LOCK", "ledger.db", "ledger.db-wal", "ledger.db-shm"], 0o600)
    await ledger.close()


async def test_the_write_ahead_log_is_moved_into_the_database_under_load(tmp_path: Path) -> None:
    options = LedgerOptions(wal_busy_bytes=200_000, checkpoint_interval=timedelta(hours=1))
    ledger: Ledger = open_ledger(tmp_path, options=options)
    largest = 0
    for number in range(60):
        await ledger.append(decision(f"d-{number}", filler="x" * 20_000))
        largest = max(largest, (tmp_path / "ledger.db-wal").stat().st_size)
    await ledger.append(bundle_activated("sha256:aa", {"a": "b"}))
    assert largest < 1_000_000
    assert (tmp_path / "ledger.db").stat().st_size > 500_000
    await ledger.close()
    assert verify(tmp_path, vkey=SIGNER.vkey).size == 61
