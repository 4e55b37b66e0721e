"""After a failed commit nothing is acknowledged any more, and what was acknowledged is there."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from authz_sidecar.errors import LedgerUnavailable
from authz_sidecar.ledger.reader import LedgerReader
from authz_sidecar.ledger.store import Position
from authz_sidecar.ledger.verify import verify
from tests.support.faulty_sqlite import Faults
from tests.support.ledger import SIGNER, decision, open_ledger


async def test_a_failed_commit_refuses_every_waiter_and_everything_after_it(tmp_path: Path) -> None:
    faults, reasons = Faults(), []
    ledger = open_ledger(tmp_path, connect=faults.connect, on_poison=reasons.append)
    before = await ledger.append(decision("before"))
    faults.fail_on = lambda sql: sql == "COMMIT"
    waiting = [ledger.append(decision(f"d-{number}")) for number in range(20)]
    signing = ledger.checkpoint_now()
    results = await asyncio.gather(*waiting, signing, return_exceptions=True)
    assert {type(result) for result in results} == {LedgerUnavailable}
    assert ledger.poisoned is not None
    assert "commit failed" in ledger.poisoned
    assert reasons == [ledger.poisoned]
    faults.fail_on = lambda _: False
    for refused in (lambda: ledger.append(decision("after")), ledger.checkpoint_now):
        with pytest.raises(LedgerUnavailable, match="commit failed"):
            refused()
    assert ledger.decision("before") is not None
    await ledger.close()

    again = open_ledger(tmp_path)
    assert [again.entry(0).leaf_hash, again.entry(1).record["type"]] == [before.leaf_hash, "recovery"]  # type: ignore[union-attr]
    assert again.size == 2
    await again.close()


async def test_a_commit_that_failed_but_persisted_is_named_by_the_recovery_record(tmp_path: Path) -> None:
    faults = Faults()
    ledger = open_ledger(tmp_path, connect=faults.connect)
    await ledger.append(decision("acknowledged"))
    faults.persisted, faults.fail_on = True, lambda sql: sql == "COMMIT"
    batch = [ledger.append(decision("unknown-1")), ledger.append(decision("unknown-2", outcome="deny"))]
    results = await asyncio.gather(*batch, return_exceptions=True)
    assert {type(result) for result in results} == {LedgerUnavailable}
    await ledger.close()

    again = open_ledger(tmp_path)
    recovery = again.entry(3)
    assert recovery is not None
    assert recovery.record["recovery"] == {
        "epoch": 2,
        "size": 3,
        "unknown": {"first": 1, "end": 3},
        "permits": ["unknown-1"],
    }
    await again.close()
    assert verify(tmp_path, vkey=SIGNER.vkey).kind == "verified_unanchored"


@pytest.mark.parametrize("persisted", [False, True], ids=["failed", "failed-but-persisted"])
def test_whichever_statement_fails_acknowledged_records_survive(tmp_path: Path, persisted: bool) -> None:
    """Fail the first statement, the second, … until a whole run succeeds; reopen and verify after each."""
    for fail_at in range(1, 200):
        directory = tmp_path / str(fail_at)
        acknowledged, finished = asyncio.run(_run(directory, fail_at, persisted))
        if (directory / "ledger.db").exists():
            asyncio.run(_reopen(directory))
            with LedgerReader.open(directory) as reader:
                result = verify(reader, vkey=SIGNER.vkey)
                assert result.kind == "verified_unanchored", (fail_at, result.detail)
                for position in acknowledged:
                    entry = reader.entry(position.index)
                    assert entry is not None, fail_at
                    assert entry.leaf_hash == position.leaf_hash, fail_at
        shutil.rmtree(directory)
        if finished:
            assert fail_at > 20
            return
    pytest.fail("the run never got to its end")


async def _run(directory: Path, fail_at: int, persisted: bool) -> tuple[list[Position], bool]:
    """A short life of a ledger. Returns what was acknowledged, and whether no statement failed."""
    faults = Faults()
    faults.fail_at, faults.persisted = fail_at, persisted
    acknowledged: list[Position] = []
    try:
        ledger = open_ledger(directory, connect=faults.connect)
    except Exception:
        return acknowledged, False
    for batch in (["a"], ["b", "c"], ["d"]):
        try:
            futures = [ledger.append(decision(name)) for name in batch]
        except LedgerUnavailable:
            continue
        results = await asyncio.gather(*futures, return_exceptions=True)
        acknowledged += [result for result in results if isinstance(result, Position)]
    await ledger.close()
    return acknowledged, faults.count < fail_at


async def _reopen(directory: Path) -> None:
    ledger = open_ledger(directory)
    await ledger.append(decision("reopened"))
    await ledger.close()


async def test_a_failed_move_of_the_write_ahead_log_poisons(tmp_path: Path) -> None:
    faults = Faults()
    ledger = open_ledger(tmp_path, connect=faults.connect)
    await ledger.append(decision("d-1"))
    faults.fail_on = lambda sql: "wal_checkpoint" in sql
    await ledger.close()
    assert "disk I/O error" in (ledger.poisoned or "")


async def test_a_defect_in_the_writer_poisons_instead_of_hanging(tmp_path: Path) -> None:
    faults = Faults()
    faults.error = ZeroDivisionError()  # type: ignore[assignment]
    ledger = open_ledger(tmp_path, connect=faults.connect)
    faults.fail_on = lambda sql: sql.startswith("INSERT INTO incoming")
    with pytest.raises(LedgerUnavailable, match="ZeroDivisionError"):
        await asyncio.wait_for(ledger.append(decision("d-1")), timeout=5)
    await ledger.close()


CHILD = """
import asyncio, sys
from pathlib import Path
from authz_sidecar.errors import LedgerUnavailable
from tests.support.ledger import decision, open_ledger

async def main():
    ledger = open_ledger(Path(sys.argv[1]))
    for number in range(200):
        try:
            await ledger.append(decision(f"d-{number}"))
        except LedgerUnavailable:
            break
        print(number, flush=True)
    sys.exit(74 if ledger.poisoned else 0)

asyncio.run(main())
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace injects the error")
def test_a_sync_that_the_kernel_fails_poisons_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    command = ["strace", "-f", "-qq", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=25+"]
    run = subprocess.run(
        [*command, sys.executable, "-c", CHILD, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "ptrace" in run.stderr and os.strerror(errno.EPERM) in run.stderr:
        pytest.skip("this machine does not let strace attach")
    acknowledged = [int(line) for line in run.stdout.split()]
    assert run.returncode == 74, run.stderr
    assert 0 < len(acknowledged) < 25
    asyncio.run(_reopen(tmp_path))
    with LedgerReader.open(tmp_path) as reader:
        assert verify(reader, vkey=SIGNER.vkey).kind == "verified_unanchored"
        assert all(reader.decision(f"d-{number}") is not None for number in acknowledged)


def test_reading_goes_on_beside_a_poisoned_writer(tmp_path: Path) -> None:
    async def run() -> None:
        faults = Faults()
        ledger = open_ledger(tmp_path, connect=faults.connect)
        await ledger.append(decision("d-1"))
        faults.fail_on = lambda sql: sql == "COMMIT"
        with pytest.raises(LedgerUnavailable):
            await ledger.append(decision("d-2"))
        assert ledger.load_session("task-1")["calls"] == 1
        with LedgerReader.open(tmp_path) as reader:
            assert reader.decision("d-1") is not None
        await ledger.close()

    asyncio.run(run())
    # Closing must not move into the database what a failed commit may have left in the write-ahead log.
    assert (tmp_path / "ledger.db-wal").stat().st_size > 0
    assert sqlite3.connect(tmp_path / "ledger.db").execute("SELECT clean FROM log").fetchone() == (0,)
