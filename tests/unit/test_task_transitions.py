"""The task's life, case by case."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from authz_sidecar.errors import TaskNotActive
from authz_sidecar.task.model import (
    TRANSITIONS,
    Initiator,
    Scope,
    Session,
    Task,
    TaskEvent,
    TaskState,
    is_final,
    session_from_json,
    task_from_json,
    task_to_json,
)

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
DEADLINE = START + timedelta(hours=1)
LATER = DEADLINE + timedelta(minutes=5)


def task(**changes: Any) -> Task:
    fields: dict[str, Any] = {
        "id": "task-7",
        "agent": "spiffe://example.org/agent/planner",
        "purpose": "renewal",
        "initiator": Initiator(kind="human", id="alice", verified=True),
        "scope": Scope(tools=frozenset({"crm/read_contact"}), resources=("crm:contact/*",), ceiling="internal"),
        "environment": "test",
        "started_at": START,
        "expires_at": DEADLINE,
        **changes,
    }
    return Task(**fields)


def test_exactly_completed_cancelled_and_expired_are_final() -> None:
    assert {state for state in TaskState if is_final(state)} == {
        TaskState.COMPLETED,
        TaskState.CANCELLED,
        TaskState.EXPIRED,
    }


@pytest.mark.parametrize("event", list(TaskEvent))
@pytest.mark.parametrize("state", [TaskState.COMPLETED, TaskState.CANCELLED, TaskState.EXPIRED])
@pytest.mark.parametrize("now", [START, LATER])
def test_ended_task_stays_as_it_ended(state: TaskState, event: TaskEvent, now: datetime) -> None:
    ended = task(state=state, ended_at=START)
    with pytest.raises(TaskNotActive, match=f"`task-7` is {state.value}; it cannot {event.value}"):
        ended.after(event, now)


@pytest.mark.parametrize(
    ("state", "event"), [(s, e) for s, e in TRANSITIONS if e is not TaskEvent.EXPIRE], ids=lambda value: value.value
)
def test_nothing_but_an_expiry_happens_at_or_after_the_deadline(state: TaskState, event: TaskEvent) -> None:
    overdue = task(state=state)
    with pytest.raises(TaskNotActive):
        overdue.after(event, DEADLINE)
    assert overdue.after(event, DEADLINE - timedelta(microseconds=1)).state is TRANSITIONS[state, event]


@pytest.mark.parametrize("state", [TaskState.ACTIVE, TaskState.SUSPENDED])
def test_expiry_takes_effect_at_the_deadline_however_late_it_is_noticed(state: TaskState) -> None:
    expired = task(state=state).after(TaskEvent.EXPIRE, LATER)
    assert (expired.state, expired.ended_at) == (TaskState.EXPIRED, DEADLINE)


def test_task_cannot_be_expired_before_its_deadline() -> None:
    with pytest.raises(TaskNotActive):
        task().after(TaskEvent.EXPIRE, DEADLINE - timedelta(microseconds=1))


def test_resumed_task_has_a_new_epoch_so_that_older_tokens_stay_dead() -> None:
    suspended = task().after(TaskEvent.SUSPEND, START)
    assert suspended.epoch == 1
    assert suspended.after(TaskEvent.RESUME, START).epoch == 2


def test_task_that_is_not_suspended_cannot_be_resumed() -> None:
    with pytest.raises(TaskNotActive):
        task().after(TaskEvent.RESUME, START)


def test_highest_class_read_never_falls_and_only_reads_raise_it() -> None:
    session = Session()
    for permission, level in (("read", 2), ("read", 1), ("write", 3), ("execute", 3)):
        session = session.after_permit(tool="crm/read_contact", permission=permission, level=level)
    assert session.max_read == 2
    assert session.calls == 4


@pytest.mark.parametrize("name", ["initiator", "tools", "resources"])
def test_document_of_another_shape_is_refused(name: str) -> None:
    with pytest.raises(TypeError):
        task_from_json({**task_to_json(task()), name: "text"})
    with pytest.raises(TypeError):
        session_from_json({"calls": 1, "tool_calls": [], "max_read": 0})
