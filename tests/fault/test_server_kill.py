"""SIGKILL, again and again, under load: whoever was answered finds the answer in the ledger."""

from __future__ import annotations

import json
import queue
import random
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from authz_sidecar.ledger.reader import LedgerReader
from authz_sidecar.ledger.verify import verify
from authz_sidecar.v1 import authorization_pb2, common_pb2, ledger_pb2
from tests.support.sidecar import Caller, CannotStart, World, authorize, start, world

KILLS = 50
# More kills, at moments in which the process may not serve yet.
EARLY_KILLS = 5
WINDOW = 8
SECONDS = 20


@dataclass(frozen=True)
class Acknowledged:
    """What a caller was told, and where it was told that it stands."""

    index: int
    type: str
    id: str
    jti: str | None = None


@dataclass
class Load:
    """Callers that go on where they stopped when the sidecar is there again. `noted` is outside of the ledger."""

    made: World
    noted: list[Acknowledged] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)
    unanswered: dict[str, authorization_pb2.AuthorizeRequest] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)
    recalled: int = 0
    broken: list[BaseException] = field(default_factory=list)

    def run(self) -> list[threading.Thread]:
        """Start all callers. Each ends when its connection does."""
        callers = {"unary-1": self._unary, "unary-2": self._unary, "stream": self._stream, "tasks": self._tasks}
        threads = [
            threading.Thread(target=self._guarded, args=(name, call), daemon=True) for name, call in callers.items()
        ]
        for thread in threads:
            thread.start()
        return threads

    def _guarded(self, name: str, call: object) -> None:
        try:
            with Caller(self.made) as caller:
                call(name, caller)  # type: ignore[operator]
        except grpc.RpcError as error:
            # The kill. Anything else that ends a call is a finding.
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                self.broken.append(error)
        except BaseException as error:
            self.broken.append(error)

    def _task(self, name: str, caller: Caller) -> str:
        if name not in self.tasks:
            self.tasks[name] = caller.start_task()
        return self.tasks[name]

    def _unary(self, name: str, caller: Caller) -> None:
        task_id = self._task(name, caller)
        while True:
            # The request that the kill left without an answer comes first, under its own id.
            request = self.unanswered.get(name) or authorize(task_id)
            self.unanswered[name] = request
            answer = caller.authorization.Authorize(request, timeout=SECONDS)
            self._note(answer)
            self.recalled += answer.recalled
            del self.unanswered[name]

    def _stream(self, name: str, caller: Caller) -> None:
        task_id = self._task(name, caller)
        window: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for _ in range(WINDOW):
            window.put("go")

        def requests() -> Iterator[authorization_pb2.AuthorizeStreamRequest]:
            while window.get() is not None:
                yield authorization_pb2.AuthorizeStreamRequest(request=authorize(task_id))

        try:
            for answer in caller.authorization.AuthorizeStream(requests(), timeout=SECONDS):
                self._note(answer.response)
                window.put("go")
        finally:
            window.put(None)

    def _tasks(self, _name: str, caller: Caller) -> None:
        with Caller(self.made, "operator") as operator:
            while True:
                task_id = caller.start_task()
                self.noted.append(Acknowledged(self._index(operator, task_id), "task_started", task_id))
                answer = caller.authorize(task_id)
                self._note(answer)
                report = authorization_pb2.ReportOutcomeRequest(
                    decision_id=answer.decision_id, status=authorization_pb2.EXECUTION_STATUS_SUCCESS
                )
                reported = caller.authorization.ReportOutcome(report, timeout=SECONDS)
                self.noted.append(Acknowledged(reported.position.index, "outcome", answer.decision_id))
                completed = caller.complete(task_id)
                self.noted.append(Acknowledged(completed.position.index, "task_completed", task_id))
                note = operator.ledger.GetCheckpoint(ledger_pb2.GetCheckpointRequest(), timeout=SECONDS).note
                self.checkpoints.append(note)

    def _index(self, operator: Caller, task_id: str) -> int:
        told = operator.ledger.GetTimeline(ledger_pb2.GetTimelineRequest(task_id=task_id), timeout=SECONDS)
        return told.records[0].position.index

    def _note(self, answer: authorization_pb2.AuthorizeResponse) -> None:
        assert answer.outcome == common_pb2.OUTCOME_PERMIT, answer.reason_code
        self.noted.append(Acknowledged(answer.position.index, "decision", answer.decision_id, answer.token.jti))


def lost(directory: Path, noted: list[Acknowledged]) -> list[Acknowledged]:
    """What was acknowledged and does not stand in the ledger where its caller was told."""
    with LedgerReader.open(directory) as reader:
        return [one for one in noted if not _stands(reader, one)]


def _stands(reader: LedgerReader, one: Acknowledged) -> bool:
    entry = reader.entry(one.index)
    if entry is None or entry.record["type"] != one.type:
        return False
    body = entry.record
    match one.type:
        case "decision":
            token = body["token"]
            granted = token["jti"] if isinstance(token, dict) else None
            return (body["id"], body["outcome"], granted) == (one.id, "permit", one.jti)
        case "outcome":
            decision = body["decision"]
            return isinstance(decision, dict) and decision["id"] == one.id
        case _:
            task = body["task"]
            return isinstance(task, dict) and task["id"] == one.id


def early_kill(made: World, chance: random.Random) -> None:
    try:
        start(made, wait=chance.uniform(0.2, 1.0)).kill()
    except CannotStart as error:
        assert "not serving after" in str(error)


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_when_the_sidecar_is_killed(capsys: pytest.CaptureFixture[str]) -> None:
    seed = secrets.randbelow(1 << 32)
    chance = random.Random(seed)
    early = set(chance.sample(range(KILLS), EARLY_KILLS))
    started = time.monotonic()
    with world() as made:
        load = Load(made)
        for kill in range(KILLS):
            if kill in early:
                early_kill(made, chance)
            sidecar = start(made)
            callers = load.run()
            time.sleep(chance.uniform(0.02, 0.5))
            sidecar.kill()
            for caller in callers:
                caller.join(SECONDS)
                assert not caller.is_alive()
            assert not load.broken, (seed, kill, load.broken[0])
        assert start(made).stop() == 0

        missing = lost(made.ledger, load.noted)
        permits = [one for one in load.noted if one.type == "decision"]
        with capsys.disabled():
            print(
                f"\nkills {KILLS}+{EARLY_KILLS} early, acknowledged permits {len(permits)},"
                f" other records {len(load.noted) - len(permits)}, repeated requests recalled {load.recalled},"
                f" lost {len(missing)}, seed {seed}, {time.monotonic() - started:.0f} s"
            )
        assert not missing, (seed, missing[:3])
        assert len(permits) > 10 * KILLS
        # Nobody was given somebody else's permit, nor the same one twice under two request ids.
        assert len({one.jti for one in permits}) == len({one.index for one in permits}) == len(permits)

        expect_recoveries(made)
        expect_verified(made, load.checkpoints[-1])
        expect_the_check_to_fail_without_the_newest_records(made, load.noted)


def expect_recoveries(made: World) -> None:
    """Every start but the first found a log that was not closed, and said so before it did anything else."""
    with LedgerReader.open(made.ledger) as reader:
        types = [str(entry.record["type"]) for entry in map(reader.entry, range(reader.size)) if entry is not None]
    starts = [index for index, type_ in enumerate(types) if type_ == "sidecar_started"]
    assert KILLS + 1 <= len(starts) <= KILLS + EARLY_KILLS + 1
    assert starts[0] == 0
    assert {types[index - 1] for index in starts[1:]} == {"recovery"}
    assert types[-1] == "sidecar_stopped"


def expect_verified(made: World, checkpoint: str) -> None:
    """The command recomputes everything and extends a checkpoint that was handed out before a kill."""
    note = made.directory / "checkpoint"
    note.write_text(checkpoint)
    ended = made.run(
        *("audit", "verify", "--ledger", str(made.ledger), "--vkey", str(made.vkey), "--checkpoint", str(note)),
        *("-o", "json"),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert json.loads(ended.stdout)["result"] == "verified"


def expect_the_check_to_fail_without_the_newest_records(made: World, noted: list[Acknowledged]) -> None:
    """The check itself, checked: one acknowledged record less, and one whose token is another."""
    newest = max(noted, key=lambda one: one.index)
    shorter = made.directory / "shorter"
    shutil.copytree(made.ledger, shorter)
    connection = sqlite3.connect(shorter / "ledger.db")
    with connection:
        assert connection.execute("DELETE FROM entry WHERE idx >= ?", (newest.index,)).rowcount > 0
    connection.close()
    assert lost(shorter, noted) == [one for one in noted if one.index == newest.index]
    assert verify(shorter, vkey=made.vkey.read_text().strip()).kind in ("tampered", "incomplete")
    permit = next(one for one in noted if one.type == "decision")
    assert lost(made.ledger, [Acknowledged(permit.index, "decision", permit.id, "another")])
