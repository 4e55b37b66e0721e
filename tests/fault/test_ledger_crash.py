"""SIGKILL, again and again: every acknowledged record is there afterwards, and the log verifies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from authz_sidecar.ledger.filters import QueryFilter
from authz_sidecar.ledger.reader import LedgerReader
from authz_sidecar.ledger.verify import verify
from tests.support.ledger import SIGNER

KILLS = 12

# Eight callers append without pause; what was acknowledged goes to a pipe, outside of the database.
CHILD = """
import asyncio, itertools, os, sys
from datetime import timedelta
from pathlib import Path
from authz_sidecar.ledger.store import LedgerOptions
from tests.support.ledger import decision, open_ledger

async def main():
    options = LedgerOptions(checkpoint_interval=timedelta(milliseconds=20), wal_busy_bytes=500_000)
    ledger = open_ledger(Path(sys.argv[1]), options=options)
    serial = itertools.count()
    os.write(1, b"ready\\n")

    async def caller():
        while True:
            name = f"run-{sys.argv[2]}-{next(serial)}"
            position = await ledger.append(decision(name, task_id=f"task-{sys.argv[2]}"))
            os.write(1, f"{position.index} {name} {position.leaf_hash.hex()}\\n".encode())

    await asyncio.gather(*(caller() for _ in range(8)))

asyncio.run(main())
"""


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    directory, log = tmp_path / "ledger", tmp_path / "acknowledged"
    chance = random.Random(17)
    for run in range(KILLS):
        with log.open("ab") as acknowledged:
            child = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(directory), str(run)],
                cwd=Path(__file__).parents[2],
                env=os.environ | {"PYTHONPATH": "."},
                stdout=acknowledged,
            )
        deadline = time.monotonic() + 20
        while log.read_bytes().count(b"ready") <= run and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.15))
        child.kill()
        assert child.wait() == -signal.SIGKILL

    # A line that the kill cut off says nothing.
    lines = [line.split() for line in log.read_text().split("\n")[:-1] if "ready" not in line]
    assert len(lines) > KILLS
    with LedgerReader.open(directory) as reader:
        for index, name, leaf_hash in lines:
            entry = reader.entry(int(index))
            assert entry is not None
            assert (entry.record["id"], entry.leaf_hash.hex()) == (name, leaf_hash)
        recoveries = list(reader.query(QueryFilter(types=("recovery",))))
        result = verify(reader, vkey=SIGNER.vkey)
        assert (result.kind, result.size) == ("verified_unanchored", reader.size), result.detail
    assert len(recoveries) == KILLS - 1
    for recovery in recoveries:
        part = recovery.record["recovery"]
        assert isinstance(part, dict)
        assert part["size"] == recovery.index
