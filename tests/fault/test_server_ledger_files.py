"""The ledger's files vanish, are replaced, or cannot be written under the real process; and what the next start does."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from authz_sidecar.errors import IntegrityFailure, SidecarError
from authz_sidecar.ledger.filters import QueryFilter
from authz_sidecar.ledger.reader import LedgerReader
from authz_sidecar.ledger.store import LedgerOptions
from authz_sidecar.ledger.verify import verify
from authz_sidecar.v1 import authorization_pb2, common_pb2
from tests.support.ledger import decision, open_ledger
from tests.support.sidecar import (
    Caller,
    Sidecar,
    World,
    copy_of,
    error_of,
    failure,
    refused,
    running,
    start,
    start_task,
    wait_until,
    world,
)


@pytest.fixture(scope="module")
def template() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.fixture
def made(template: World) -> Iterator[World]:
    with copy_of(template) as copy:
        yield copy


def move(path: Path) -> None:
    path.rename(path.with_name(path.name + ".moved"))


def put_back(path: Path) -> None:
    path.with_name(path.name + ".moved").replace(path)


def replace_by_a_copy(path: Path) -> None:
    copy = path.with_name(path.name + ".copy")
    shutil.copyfile(path, copy)
    copy.replace(path)


def replace_by(path: Path, content: bytes) -> None:
    shutil.copyfile(path, path.with_name(path.name + ".moved"))
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


def replace_by_nothing(path: Path) -> None:
    replace_by(path, b"")


def replace_by_garbage(path: Path) -> None:
    replace_by(path, b"garbage" * 10_000)


def expect_poisoned(sidecar: Sidecar, caller: Caller, task_id: str, says: str) -> None:
    """No permit any more, everybody is told why, and the process leaves with its own exit code."""
    code, error = failure(caller.authorize, task_id)
    assert (code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "LEDGER_UNAVAILABLE")
    assert says in error.message
    for _ in range(3):
        with pytest.raises(grpc.RpcError):
            caller.authorize(task_id)
    assert sidecar.process.wait(15) == 74
    (poisoned,) = [json.loads(line) for line in sidecar.log.splitlines() if '"ledger poisoned"' in line]
    assert says in poisoned["reason"]


def expect_all(made: World, acknowledged: list[authorization_pb2.AuthorizeResponse]) -> None:
    """Every acknowledged permit stands where its caller was told."""
    with LedgerReader.open(made.ledger) as reader:
        for answer in acknowledged:
            entry = reader.entry(answer.position.index)
            assert entry is not None
            assert entry.record["id"] == answer.decision_id
    assert verify(made.ledger, vkey=made.vkey.read_text().strip()).kind == "verified_unanchored"


@pytest.mark.parametrize(
    ("name", "damage", "repair", "refusal"),
    [
        ("ledger.db", move, put_back, "is gone, but there was a ledger here before"),
        pytest.param("ledger.db", replace_by_a_copy, None, None, marks=pytest.mark.slow),
        ("ledger.db", replace_by_nothing, put_back, "is empty, which no ledger is"),
        pytest.param("ledger.db", replace_by_garbage, put_back, "is not a readable ledger", marks=pytest.mark.slow),
        ("ledger.db-wal", move, put_back, "its write-ahead log is gone"),
        pytest.param("ledger.db-wal", replace_by_a_copy, None, None, marks=pytest.mark.slow),
        pytest.param(
            "ledger.db-wal", replace_by_nothing, put_back, "its write-ahead log is gone", marks=pytest.mark.slow
        ),
    ],
    ids=lambda value: getattr(value, "__name__", "") if callable(value) else None,
)
def test_a_file_that_changes_under_the_process_stops_it_and_the_next_start_forgets_nothing(
    made: World,
    name: str,
    damage: Callable[[Path], None],
    repair: Callable[[Path], None] | None,
    refusal: str | None,
) -> None:
    sidecar = start(made)
    with Caller(made) as caller:
        task_id = caller.start_task()
        acknowledged = [caller.authorize(task_id) for _ in range(5)]
        damage(made.ledger / name)
        expect_poisoned(sidecar, caller, task_id, f"{name}` was ")
    if repair is not None:
        # Never a new log, nor a shorter one, where there was one; and looking at the evidence does not change it.
        assert refusal is not None
        ended = refused(made)
        assert ended.returncode == 4
        assert refusal in ended.stderr
        assert "keep the directory as evidence" in ended.stderr
        with pytest.raises(SidecarError) if name == "ledger.db" else nullcontext():
            verify(made.ledger, vkey=made.vkey.read_text().strip())
        repair(made.ledger / name)
    with running(made) as sidecar, Caller(made) as caller:
        acknowledged.append(caller.authorize(task_id))
        assert sidecar.stop() == 0
    expect_all(made, acknowledged)


async def test_a_database_put_back_to_an_older_state_of_the_same_run_is_not_continued(tmp_path: Path) -> None:
    options = LedgerOptions(wal_busy_bytes=1, checkpoint_interval=timedelta(hours=1))
    ledger = open_ledger(tmp_path / "running", options=options)
    await ledger.append(decision("d-0"))
    await ledger.checkpoint_now()
    older = (tmp_path / "running" / "ledger.db").read_bytes()
    await ledger.append(decision("d-1"))
    await ledger.checkpoint_now()
    # As after a kill, with the older database and without what was not moved into it yet.
    shutil.copytree(tmp_path / "running", tmp_path / "killed")
    await ledger.close()
    (tmp_path / "killed" / "ledger.db").write_bytes(older)
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (tmp_path / "killed" / name).unlink()
    with pytest.raises(IntegrityFailure, match="had 2 signed entries and now has 1: the database was put back"):
        open_ledger(tmp_path / "killed")


@pytest.mark.slow
def test_a_database_put_back_while_the_sidecar_was_stopped_is_not_continued(made: World) -> None:
    for run in range(2):
        with running(made) as sidecar, Caller(made) as caller:
            caller.authorize(caller.start_task())
            assert sidecar.stop() == 0
        if run == 0:
            shutil.copyfile(made.ledger / "ledger.db", made.directory / "older.db")
    newer = (made.ledger / "ledger.db").read_bytes()
    shutil.copyfile(made.directory / "older.db", made.ledger / "ledger.db")
    ended = refused(made)
    assert ended.returncode == 4
    assert "put back to an older state" in ended.stderr
    (made.ledger / "ledger.db").write_bytes(newer)
    with running(made) as sidecar:
        assert sidecar.stop() == 0


def test_a_write_that_fails_stops_the_process_and_the_next_start_recovers(made: World) -> None:
    """A limit on file sizes is the write error that needs no privileges: the file may not grow any more."""
    sidecar = start(made)
    with Caller(made) as caller:
        task_id = caller.start_task()
        acknowledged = [caller.authorize(task_id) for _ in range(5)]
        size = (made.ledger / "ledger.db-wal").stat().st_size
        resource.prlimit(sidecar.process.pid, resource.RLIMIT_FSIZE, (size, size))
        expect_poisoned(sidecar, caller, task_id, "a commit failed")
    with running(made) as sidecar, Caller(made) as caller:
        acknowledged.append(caller.authorize(task_id))
        assert sidecar.stop() == 0
    expect_all(made, acknowledged)
    with LedgerReader.open(made.ledger) as reader:
        assert len(list(reader.query(QueryFilter(types=("recovery",))))) == 1


def mount(directory: Path, *options: str) -> None:
    """A small volume of its own at `directory`, or skip."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join(("size=3m", "mode=700", *options)), "tmpfs", str(directory)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting needs privileges that this machine does not give")


def unmount(directory: Path) -> None:
    subprocess.run(["umount", "--lazy", str(directory)], check=True)  # noqa: S607


@pytest.fixture
def volume(made: World) -> Iterator[Path]:
    """The ledger's directory as a volume of 3 MiB."""
    made.ledger.mkdir()
    mount(made.ledger)
    yield made.ledger
    unmount(made.ledger)


def fill(volume: Path) -> Path:
    """Take all the space that is left."""
    ballast = volume / "ballast"
    with ballast.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


def until_refused(caller: Caller, task_id: str) -> tuple[list[authorization_pb2.AuthorizeResponse], common_pb2.Error]:
    """What was still permitted in pages that the ledger had already, and the error that ended it."""
    permitted = []
    for _ in range(500):
        try:
            permitted.append(caller.authorize(task_id, justification="x" * 1000))
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            return permitted, error_of(error)
    raise AssertionError("the volume never was full")


def test_a_full_disk_refuses_says_so_and_ends_by_itself(made: World, volume: Path) -> None:
    with running(made) as sidecar, Caller(made) as caller, Caller(made, "crm") as crm:
        task_id = caller.start_task()
        acknowledged = [caller.authorize(task_id)]
        ballast = fill(volume)
        permitted, error = until_refused(caller, task_id)
        acknowledged += permitted
        assert error.reason == "LEDGER_UNAVAILABLE"
        assert "disk is full" in error.message
        assert "free some space" in error.message
        assert "the ledger's disk is full; free some space" in sidecar.not_ready()

        # What ends authority is refused as what grants it is, and the task is as it was. Reading goes on.
        for call in (lambda: caller.complete(task_id), lambda: caller.tasks.StartTask(start_task(), timeout=20)):
            code, error = failure(call)
            assert (code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "LEDGER_UNAVAILABLE")
        assert caller.state(task_id) == common_pb2.TASK_STATE_ACTIVE
        assert crm.introspect(acknowledged[0].token.value)

        ballast.unlink()
        wait_until(lambda: not sidecar.not_ready())
        acknowledged.append(caller.authorize(task_id))
        caller.complete(task_id)
        assert not crm.introspect(acknowledged[0].token.value)
        assert sidecar.stop() == 0
    expect_all(made, acknowledged)


@pytest.mark.slow
def test_a_full_disk_at_the_stop_and_at_the_start(made: World, volume: Path) -> None:
    with running(made) as sidecar, Caller(made) as caller:
        task_id = caller.start_task()
        acknowledged = [caller.authorize(task_id)]
        ballast = fill(volume)
        acknowledged += until_refused(caller, task_id)[0]
        assert sidecar.stop() == 0
    ended = refused(made)
    assert ended.returncode == 3
    assert "free space" in ended.stderr or "disk is full" in ended.stderr, ended.stderr
    ballast.unlink()
    with running(made) as sidecar, Caller(made) as caller:
        acknowledged.append(caller.authorize(task_id))
        assert sidecar.stop() == 0
    expect_all(made, acknowledged)


def test_a_read_only_directory_is_refused_at_the_start_with_the_remedy(made: World) -> None:
    made.ledger.mkdir()
    if os.geteuid() == 0:
        # Permission bits mean nothing to root.
        mount(made.ledger, "ro")
    else:
        made.ledger.chmod(0o500)
    try:
        ended = refused(made)
    finally:
        if os.geteuid() == 0:
            unmount(made.ledger)
    assert ended.returncode == 3
    assert "ledger.directory" in ended.stderr
    assert "not writable by uid" in ended.stderr
    assert "Traceback" not in ended.stderr
