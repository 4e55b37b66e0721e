"""Any history of a task against a second description of the rules, and every task through its JSON form."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Literal

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from authz_sidecar.errors import TaskNotActive
from authz_sidecar.task.model import (
    Initiator,
    Scope,
    Session,
    Task,
    TaskEvent,
    TaskState,
    session_from_json,
    task_from_json,
    task_to_json,
)

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
LIFE = timedelta(seconds=10)


class TaskHistory(RuleBasedStateMachine):
    """Drives a task with events in any order, at a clock that only moves forward."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.task = Task(
            id="t",
            agent="spiffe://example.org/a",
            purpose="p",
            initiator=Initiator(kind="workflow", id="w", verified=False),
            scope=Scope(tools=frozenset({"s/t"}), resources=("*",), ceiling="public"),
            environment="test",
            started_at=START,
            expires_at=START + LIFE,
        )
        self.resumptions = 0
        self.ended: Task | None = None

    @rule(seconds=st.integers(0, 4))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(event=st.sampled_from(TaskEvent))
    def event_arrives(self, event: TaskEvent) -> None:
        before, overdue = self.task, self.now >= START + LIFE
        only_when = TaskState.SUSPENDED if event is TaskEvent.RESUME else TaskState.ACTIVE
        fits = event not in (TaskEvent.SUSPEND, TaskEvent.RESUME) or before.state is only_when
        admitted = self.ended is None and fits and overdue == (event is TaskEvent.EXPIRE)
        try:
            self.task = before.after(event, self.now)
        except TaskNotActive:
            assert not admitted
            assert self.task == before
            return
        assert admitted
        self.resumptions += event is TaskEvent.RESUME
        if event in (TaskEvent.COMPLETE, TaskEvent.CANCEL, TaskEvent.EXPIRE):
            self.ended = self.task

    @invariant()
    def end_is_final(self) -> None:
        assert (self.task.ended_at is None) == (self.ended is None)
        assert self.ended is None or self.task == self.ended

    @invariant()
    def epoch_counts_resumptions(self) -> None:
        assert self.task.epoch == 1 + self.resumptions

    @invariant()
    def nothing_is_active_beyond_the_deadline(self) -> None:
        assert self.task.state_at(START + LIFE) not in (TaskState.ACTIVE, TaskState.SUSPENDED)
        assert self.task.ended_at is None or self.task.ended_at <= START + LIFE


TestTaskHistory = TaskHistory.TestCase
TestTaskHistory.settings = settings(max_examples=60, stateful_step_count=12, deadline=None)

_texts = st.text(max_size=20)
_times = st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC))
_kinds: st.SearchStrategy[Literal["human", "workflow"]] = st.sampled_from(["human", "workflow"])
_tasks = st.builds(
    Task,
    id=_texts,
    agent=_texts,
    purpose=_texts,
    initiator=st.builds(Initiator, kind=_kinds, id=_texts, verified=st.booleans()),
    scope=st.builds(
        Scope,
        tools=st.frozensets(_texts, max_size=4),
        resources=st.lists(_texts, max_size=4).map(tuple),
        ceiling=_texts,
    ),
    environment=_texts,
    started_at=_times,
    expires_at=_times,
    state=st.sampled_from(TaskState),
    epoch=st.integers(1, 2**53 - 1),
    ended_at=st.none() | _times,
    parent_id=st.none() | _texts,
    depth=st.integers(0, 16),
)


@given(task=_tasks)
@settings(max_examples=100, deadline=None)
def test_task_survives_its_json_form(task: Task) -> None:
    assert task_from_json(json.loads(json.dumps(task_to_json(task)))) == task


@given(
    calls=st.lists(
        st.tuples(st.sampled_from(["a/x", "a/y"]), st.sampled_from(["read", "write", "execute"]), st.integers(0, 5))
    )
)
@settings(max_examples=60, deadline=None)
def test_session_counts_what_was_permitted_and_survives_its_json_form(calls: list[tuple[str, str, int]]) -> None:
    session = Session()
    for tool, permission, level in calls:
        session = session.after_permit(tool=tool, permission=permission, level=level)
    assert session.calls == len(calls) == sum(session.tool_calls.values())
    assert session.max_read == max((level for _, permission, level in calls if permission == "read"), default=0)
    document = {"calls": session.calls, "tool_calls": dict(session.tool_calls), "max_read": session.max_read}
    assert session_from_json(json.loads(json.dumps(document))) == session
