"""The task: the unit of authority. Pure values and one transition table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from authz_sidecar.clock import format_time, parse_time
from authz_sidecar.errors import TaskNotActive
from authz_sidecar.strictjson import Json


class TaskState(StrEnum):
    ACTIVE = "active"
    SUSPENDED = "suspended"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class TaskEvent(StrEnum):
    SUSPEND = "suspend"
    RESUME = "resume"
    COMPLETE = "complete"
    CANCEL = "cancel"
    EXPIRE = "expire"


class Hold(StrEnum):
    """Who suspended a task, lowest rank first. A higher one takes a suspension over from a lower one.

    `PARENT` is a suspension that came down from the parent task, and goes with it.
    """

    PARENT = "parent"
    AGENT = "agent"
    DELEGATOR = "delegator"
    OPERATOR = "operator"


# INVARIANT: a state with no outgoing row is final. Completed, cancelled and expired are final.
# Suspending what is suspended changes nothing but who holds it, see `Task.after`.
TRANSITIONS: Mapping[tuple[TaskState, TaskEvent], TaskState] = MappingProxyType(
    {
        (TaskState.ACTIVE, TaskEvent.SUSPEND): TaskState.SUSPENDED,
        (TaskState.ACTIVE, TaskEvent.COMPLETE): TaskState.COMPLETED,
        (TaskState.ACTIVE, TaskEvent.CANCEL): TaskState.CANCELLED,
        (TaskState.ACTIVE, TaskEvent.EXPIRE): TaskState.EXPIRED,
        (TaskState.SUSPENDED, TaskEvent.SUSPEND): TaskState.SUSPENDED,
        (TaskState.SUSPENDED, TaskEvent.RESUME): TaskState.ACTIVE,
        (TaskState.SUSPENDED, TaskEvent.COMPLETE): TaskState.COMPLETED,
        (TaskState.SUSPENDED, TaskEvent.CANCEL): TaskState.CANCELLED,
        (TaskState.SUSPENDED, TaskEvent.EXPIRE): TaskState.EXPIRED,
    }
)


def is_final(state: TaskState) -> bool:
    """Whether nothing can follow the state."""
    return all(source is not state for source, _ in TRANSITIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Initiator:
    """Who started the task. `verified` is False for a claim of the agent that nobody checked."""

    kind: Literal["human", "workflow"]
    id: str
    verified: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a task may touch.

    Attributes:
        tools: "server/name".
        resources: resource patterns, `*` matches any run of characters.
        ceiling: name of the highest data class.
    """

    tools: frozenset[str]
    resources: tuple[str, ...]
    ceiling: str


@dataclass(frozen=True, slots=True)
class Hop:
    """One task above a delegated one: its id, the agent that delegated, and its distance from the root task."""

    task_id: str
    agent: str
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task. `agent` is the SPIFFE ID of its owner; times are aware UTC.

    `epoch` counts from 1 and rises with every resumption: a token of an earlier epoch died with the suspension.
    `held_by` says who suspended it, None unless it is suspended. `delegation` are the tasks above it, the root first,
    the parent last; written when the task is made and never changed.
    """

    id: str
    agent: str
    purpose: str
    initiator: Initiator
    scope: Scope
    environment: str
    started_at: datetime
    expires_at: datetime
    state: TaskState = TaskState.ACTIVE
    epoch: int = 1
    ended_at: datetime | None = None
    held_by: Hold | None = None
    parent_id: str | None = None
    depth: int = 0
    delegation: tuple[Hop, ...] = ()

    @property
    def hop(self) -> Hop:
        """This task as its descendants name it."""
        return Hop(self.id, self.agent, self.depth)

    def state_at(self, now: datetime) -> TaskState:
        """The state as it counts at `now`: a task past its deadline is expired whether or not that was recorded yet."""
        if now >= self.expires_at and (self.state, TaskEvent.EXPIRE) in TRANSITIONS:
            return TaskState.EXPIRED
        return self.state

    def after(self, event: TaskEvent, now: datetime, *, by: Hold = Hold.AGENT) -> Task:
        """The task after `event`.

        An expiry takes effect at the deadline, however much later it is noticed: that is its `ended_at`. Every other
        event takes effect at `now`.

        Args:
            by: who suspends it. Of no meaning for other events: who may do what is policy.

        Raises TaskNotActive when the state at `now` does not admit the event: the task has ended, its deadline has
        passed (or, for an expiry, has not), it is not suspended and should resume, or it is already suspended by
        somebody of the same or a higher rank.
        """
        state = self.state_at(now)
        if event is TaskEvent.EXPIRE:
            # The deadline has passed and the stored state still admits it: only the record of the expiry is missing.
            if state is not TaskState.EXPIRED or self.state is TaskState.EXPIRED:
                raise TaskNotActive(f"task `{self.id}` is {state.value}; it cannot {event.value}")
            return replace(self, state=TaskState.EXPIRED, ended_at=self.expires_at, held_by=None)
        successor = TRANSITIONS.get((state, event))
        if successor is None or (successor is TaskState.SUSPENDED and not _outranks(by, self.held_by)):
            raise TaskNotActive(f"task `{self.id}` is {state.value}; it cannot {event.value}")
        return replace(
            self,
            state=successor,
            epoch=self.epoch + (event is TaskEvent.RESUME),
            ended_at=now if is_final(successor) else None,
            held_by=by if successor is TaskState.SUSPENDED else None,
        )


def _outranks(hold: Hold, held: Hold | None) -> bool:
    ranks = list(Hold)
    return held is None or ranks.index(hold) > ranks.index(held)


@dataclass(frozen=True, slots=True)
class Session:
    """What happened in the task so far, counted from permits only. Facts for policy, never supplied by the agent.

    Attributes:
        calls: permitted calls.
        tool_calls: permitted calls by tool.
        max_read: highest data class level that a permitted read touched; 0 when nothing was read. Only rises.
    """

    calls: int = 0
    tool_calls: Mapping[str, int] = field(default_factory=dict)
    max_read: int = 0

    def after_permit(self, *, tool: str, permission: str, level: int) -> Session:
        counts = {**self.tool_calls, tool: self.tool_calls.get(tool, 0) + 1}
        max_read = max(self.max_read, level) if permission == "read" else self.max_read
        return Session(self.calls + 1, counts, max_read)


def task_to_json(task: Task) -> dict[str, Json]:
    """The task as it stands in records and projections."""
    return {
        "id": task.id,
        "agent": task.agent,
        "purpose": task.purpose,
        "initiator": {
            "kind": task.initiator.kind,
            "id": task.initiator.id,
            "verified": task.initiator.verified,
        },
        "tools": [*sorted(task.scope.tools)],
        "resources": list(task.scope.resources),
        "ceiling": task.scope.ceiling,
        "environment": task.environment,
        "started_at": format_time(task.started_at),
        "expires_at": format_time(task.expires_at),
        "state": task.state.value,
        "epoch": task.epoch,
        "ended_at": format_time(task.ended_at) if task.ended_at else None,
        "held_by": task.held_by.value if task.held_by else None,
        "parent_id": task.parent_id,
        "depth": task.depth,
        "delegation": delegation_to_json(task.delegation),
    }


def delegation_to_json(delegation: tuple[Hop, ...]) -> list[Json]:
    """A chain as it stands in records, the root first."""
    return [{"task_id": hop.task_id, "agent": hop.agent, "depth": hop.depth} for hop in delegation]


def _delegation_from_json(value: Json) -> tuple[Hop, ...]:
    hops = value if isinstance(value, list) else [value]
    if not all(isinstance(hop, dict) for hop in hops):
        raise TypeError("task document has the wrong shape")
    return tuple(
        Hop(str(hop["task_id"]), str(hop["agent"]), int(str(hop["depth"]))) for hop in hops if isinstance(hop, dict)
    )


def task_from_json(doc: Mapping[str, Json]) -> Task:
    """Inverse of `task_to_json`. The document comes from our own ledger, so a wrong shape is a plain error."""
    initiator = doc["initiator"]
    tools, resources = doc["tools"], doc["resources"]
    if not isinstance(initiator, dict) or not isinstance(tools, list) or not isinstance(resources, list):
        raise TypeError("task document has the wrong shape")
    ended_at, held_by = doc["ended_at"], doc["held_by"]
    return Task(
        id=str(doc["id"]),
        agent=str(doc["agent"]),
        purpose=str(doc["purpose"]),
        initiator=Initiator(
            kind="human" if initiator["kind"] == "human" else "workflow",
            id=str(initiator["id"]),
            verified=initiator["verified"] is True,
        ),
        scope=Scope(
            tools=frozenset(map(str, tools)),
            resources=tuple(map(str, resources)),
            ceiling=str(doc["ceiling"]),
        ),
        environment=str(doc["environment"]),
        started_at=parse_time(str(doc["started_at"])),
        expires_at=parse_time(str(doc["expires_at"])),
        state=TaskState(str(doc["state"])),
        epoch=int(str(doc["epoch"])),
        ended_at=parse_time(str(ended_at)) if ended_at is not None else None,
        held_by=Hold(str(held_by)) if held_by is not None else None,
        parent_id=str(doc["parent_id"]) if doc["parent_id"] is not None else None,
        depth=int(str(doc["depth"])),
        delegation=_delegation_from_json(doc["delegation"]),
    )


def session_from_json(doc: Mapping[str, Json]) -> Session:
    """A session from its projection: `{"calls", "tool_calls", "max_read"}`."""
    tool_calls = doc["tool_calls"]
    if not isinstance(tool_calls, dict):
        raise TypeError("session document has the wrong shape")
    return Session(
        calls=int(str(doc["calls"])),
        tool_calls={tool: int(str(count)) for tool, count in tool_calls.items()},
        max_read=int(str(doc["max_read"])),
    )
