"""A disk that hangs or fails under the real process, by tracing its system calls, where the machine lets us trace."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from authz_sidecar.ledger.reader import LedgerReader
from authz_sidecar.ledger.verify import verify
from tests.support.sidecar import Caller, Sidecar, World, authorize, copy_of, failure, running, wait_until, world

STRACE = shutil.which("strace")


@pytest.fixture(scope="module")
def template() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.fixture
def made(template: World) -> Iterator[World]:
    with copy_of(template) as copy:
        yield copy


@contextmanager
def injected(sidecar: Sidecar, fault: str) -> Iterator[None]:
    """Every `fdatasync` of the process is tampered with, for the length of a block."""
    if STRACE is None:
        pytest.skip("strace is not installed")
    said = sidecar.world.directory / "strace.log"
    command = [STRACE, "-f", "-p", str(sidecar.process.pid), "-o", "/dev/null", "-e", "trace=fdatasync"]
    with said.open("wb") as stderr:
        tracer = subprocess.Popen([*command, "-e", f"inject=fdatasync:{fault}"], stderr=stderr)
    try:
        wait_until(lambda: " attached" in said.read_text() or tracer.poll() is not None)
        if tracer.poll() is not None:
            pytest.skip("this machine does not let us trace")
        yield
    finally:
        if tracer.poll() is None:
            tracer.send_signal(signal.SIGINT)
        tracer.wait(20)


def test_a_disk_that_hangs_gives_no_answer_and_what_lands_later_is_void(made: World) -> None:
    with running(made, "ledger.append_deadline=200ms") as sidecar, Caller(made) as caller:
        task_id = caller.start_task()
        late = authorize(task_id)
        with injected(sidecar, "delay_enter=1500000"):
            code, error = failure(lambda: caller.authorization.Authorize(late, timeout=20))
            assert (code, error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
            assert "nothing was granted" in error.message
        wait_until(lambda: "grant_void" in types(made))
        code, error = failure(lambda: caller.authorization.Authorize(late, timeout=20))
        assert (code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "GRANT_EXPIRED")
        assert caller.authorize(task_id).token.value
        assert sidecar.stop() == 0
    told = types(made)
    assert told[told.index("grant_void") - 1] == "decision"


def test_a_sync_that_fails_stops_the_process_and_the_next_start_recovers(made: World) -> None:
    with running(made) as sidecar, Caller(made) as caller:
        task_id = caller.start_task()
        acknowledged = caller.authorize(task_id)
        with injected(sidecar, "error=EIO"):
            code, error = failure(caller.authorize, task_id)
            assert (code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "LEDGER_UNAVAILABLE")
            assert "a commit failed" in error.message
            assert sidecar.process.wait(20) == 74
    with running(made) as sidecar, Caller(made) as caller:
        assert caller.authorize(task_id).token.value
        assert sidecar.stop() == 0
    assert "recovery" in types(made)
    with LedgerReader.open(made.ledger) as reader:
        entry = reader.entry(acknowledged.position.index)
    assert entry is not None
    assert entry.record["id"] == acknowledged.decision_id
    assert verify(made.ledger, vkey=made.vkey.read_text().strip()).kind == "verified_unanchored"


def types(made: World) -> list[str]:
    with LedgerReader.open(made.ledger) as reader:
        return [str(entry.record["type"]) for entry in map(reader.entry, range(reader.size)) if entry is not None]
