"""Whatever history is appended: state equals a plain model of it, and equals what a rebuild from the entries gives."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from authz_sidecar.ledger.records import Record
from authz_sidecar.ledger.verify import verify
from tests.support.ledger import (
    SIGNER,
    START,
    bundle_activated,
    decision,
    grant_void,
    open_ledger,
    outcome,
    task_changed,
    task_started,
)

TASKS = ("t-1", "t-2", "t-3")
TOOLS = ("crm/read_contact", "mail/send", "files/delete")
tasks = st.sampled_from(TASKS)
steps = st.one_of(
    st.tuples(st.just("start"), tasks),
    st.tuples(st.just("change"), tasks, st.sampled_from(["completed", "suspended", "resumed", "cancelled", "expired"])),
    st.tuples(
        st.just("decide"),
        tasks,
        st.sampled_from(["permit", "deny", "approval_required"]),
        st.sampled_from(TOOLS),
        st.sampled_from(["read", "write", "execute"]),
        st.integers(0, 4),
    ),
    st.tuples(st.just("void"), st.integers(0, 20)),
    st.tuples(st.just("outcome"), st.integers(0, 20)),
    st.tuples(st.just("bundle"), st.sampled_from(["sha256:aa", "sha256:bb"])),
    st.tuples(st.just("restart")),
    st.tuples(st.just("clock"), st.integers(-5, 5)),
)


def record_of(step: tuple, number: int, seconds: int) -> Record:  # type: ignore[type-arg]
    at = START + timedelta(seconds=seconds)
    match step:
        case ("start", task):
            return task_started(task, at=at)
        case ("change", task, change):
            return task_changed(task, change, at=at, epoch=number + 1)
        case ("decide", task, verdict, tool, permission, level):
            return decision(
                f"d-{number}", task_id=task, outcome=verdict, tool=tool, permission=permission, level=level, at=at
            )
        case ("void", about):
            return grant_void(f"d-{about}", about, at=at)
        case ("outcome", about):
            return outcome(f"d-{about}", about, at=at)
        case ("bundle", digest):
            return bundle_activated(digest, {"a": digest}, at=at)
    raise AssertionError(step)


class Model:
    """The same state, added up the slow and obvious way."""

    def __init__(self) -> None:
        self.tasks: dict[str, str] = {}
        self.started: set[str] = set()
        self.calls: dict[str, Counter[str]] = {task: Counter() for task in TASKS}
        self.max_read = dict.fromkeys(TASKS, 0)
        self.revocations = 0
        self.policies: set[str] = set()

    def apply(self, step: tuple) -> None:  # type: ignore[type-arg]
        match step:
            case ("start", task):
                self.started.add(task)
                self.tasks[task] = "active"
            case ("change", task, change):
                self.tasks[task] = "active" if change == "resumed" else change
                self.revocations += change != "resumed"
            case ("decide", task, "permit", tool, permission, level):
                self.calls[task][tool] += 1
                if permission == "read":
                    self.max_read[task] = max(self.max_read[task], level)
            case ("bundle", digest):
                self.policies.add(digest)


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, max_size=40))
def test_state_is_what_the_entries_say(history: list[tuple]) -> None:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory(prefix="az-") as directory:
        asyncio.run(_check(Path(directory), history))


async def _check(directory: Path, history: list[tuple]) -> None:  # type: ignore[type-arg]
    model, seconds = Model(), 0
    clock = START + timedelta(hours=1)
    ledger = open_ledger(directory, now=lambda: clock)
    for number, step in enumerate(history):
        if step[0] == "restart":
            await ledger.close()
            ledger = open_ledger(directory, now=lambda: clock)
        elif step[0] == "clock":
            seconds += step[1]
        else:
            await ledger.append(record_of(step, number, seconds))
            model.apply(step)

    for task in TASKS:
        assert ledger.load_session(task) == {
            "calls": model.calls[task].total(),
            "tool_calls": dict(model.calls[task]),
            "max_read": model.max_read[task],
        }
        stored = ledger.load_task(task)
        assert (stored is None) == (task not in model.started)
        if stored is not None:
            assert stored["state"] == model.tasks[task]
    assert ledger.revocation_epoch == model.revocations
    assert {digest for digest in ("sha256:aa", "sha256:bb") if ledger.known_policy(digest)} == model.policies
    times = [str(entry.record["time"]) for index in range(ledger.size) if (entry := ledger.entry(index))]
    assert times == sorted(times)
    await ledger.close()
    result = verify(directory, vkey=SIGNER.vkey)
    assert (result.kind, result.size) == ("verified_unanchored", len(times)), result.detail
