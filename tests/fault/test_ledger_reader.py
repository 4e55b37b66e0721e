"""Reading from outside: beside a running sidecar, after a crash, and where nothing can be written."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from authz_sidecar.errors import IntegrityFailure, OperatorError
from authz_sidecar.ledger.reader import LedgerReader
from authz_sidecar.ledger.verify import verify
from tests.support.ledger import SIGNER, decision, open_ledger


async def test_a_reader_beside_the_writer_sees_what_is_durable(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    with LedgerReader.open(tmp_path) as reader:
        assert reader.size == 0
        await asyncio.gather(*(ledger.append(decision(f"d-{number}")) for number in range(300)))
        assert reader.size == 300
        assert verify(reader, vkey=SIGNER.vkey).kind == "verified_unanchored"
        # Verification sees one state, however much is written meanwhile.
        sizes: list[int] = []

        def progress(done: int, total: int) -> None:
            sizes.append(total)

        verifying = asyncio.create_task(asyncio.to_thread(verify, tmp_path, vkey=SIGNER.vkey, progress=progress))
        while not verifying.done():
            await ledger.append(decision(f"more-{ledger.size}"))
        result = await verifying
        assert (result.kind, set(sizes)) == ("verified_unanchored", {result.size})
        assert reader.size > result.size
    await ledger.close()


async def test_a_reader_that_stays_open_does_not_keep_the_writer_from_closing(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    await ledger.append(decision("d-1"))
    with LedgerReader.open(tmp_path) as reader:
        await ledger.close()
        assert reader.decision("d-1") is not None
    assert verify(tmp_path, vkey=SIGNER.vkey).size == 1


# Root may write anywhere, so the child gives its rights up before it looks.
CHILD = """
import os, sys
from pathlib import Path
from authz_sidecar.ledger.verify import verify
from tests.support.ledger import SIGNER
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
directory = Path(sys.argv[1])
assert not os.access(directory, os.W_OK)
print(verify(directory, vkey=SIGNER.vkey).kind, verify(directory, vkey=SIGNER.vkey).size)
"""


def read_without_rights(directory: Path) -> str:
    for path in directory.iterdir():
        path.chmod(0o444)
    directory.chmod(0o555)
    try:
        for parent in (directory, *directory.parents):
            if not parent.stat().st_mode & 0o001:
                pytest.skip(f"{parent} cannot be entered by other users")
        run = subprocess.run(
            [sys.executable, "-c", CHILD, str(directory)],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"PYTHONPATH": ".", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        directory.chmod(0o755)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that other users may enter."""
    with TemporaryDirectory(prefix="az-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def _write(directory: Path) -> None:
    ledger = open_ledger(directory)
    await asyncio.gather(*(ledger.append(decision(f"d-{number}")) for number in range(20)))
    await ledger.close()


def test_a_closed_ledger_can_be_verified_where_nothing_can_be_written(public: Path) -> None:
    asyncio.run(_write(public / "ledger"))
    assert read_without_rights(public / "ledger") == "verified_unanchored 20"


def test_a_crashed_ledger_can_be_verified_where_nothing_can_be_written(public: Path) -> None:
    async def copy_while_running() -> None:
        ledger = open_ledger(public / "ledger")
        await asyncio.gather(*(ledger.append(decision(f"d-{number}")) for number in range(20)))
        (public / "copy").mkdir()
        for name in ("ledger.db", "ledger.db-wal"):
            shutil.copyfile(public / "ledger" / name, public / "copy" / name)
        await ledger.close()

    asyncio.run(copy_while_running())
    assert (public / "copy" / "ledger.db-wal").stat().st_size > 0
    assert read_without_rights(public / "copy") == "verified_unanchored 20"


def test_what_is_not_a_ledger_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no ledger in"):
        LedgerReader.open(tmp_path)
    (tmp_path / "ledger.db").write_bytes(b"not a database at all" * 500)
    with pytest.raises(IntegrityFailure, match="not a readable ledger"):
        LedgerReader.open(tmp_path)
