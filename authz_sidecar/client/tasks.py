"""What the client says about tasks: who started one, and what the sidecar knows about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from authz_sidecar.client.answers import policies
from authz_sidecar.client.errors import TaskRefused
from authz_sidecar.client.failures import invalid_answer
from authz_sidecar.v1 import common_pb2, task_pb2

_KINDS = {"human": common_pb2.INITIATOR_KIND_HUMAN, "workflow": common_pb2.INITIATOR_KIND_WORKFLOW}
_STATE_PREFIX = "TASK_STATE_"


@dataclass(frozen=True, slots=True)
class Initiator:
    """Who started the task: a person or a workflow, by identifier.

    Without `credential` (an OIDC ID token or a JWT-SVID of the initiator) it is recorded as the agent's claim.
    """

    kind: Literal["human", "workflow"]
    id: str
    credential: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError("`kind` of an initiator is `human` or `workflow`")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo:
    """A task as the sidecar described it. `state` is in lower case: "active", "suspended", "completed", ..."""

    id: str
    agent: str
    state: str
    purpose: str
    environment: str
    tools: tuple[str, ...]
    resources: tuple[str, ...]
    ceiling: str
    started_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A task that is asked for. See AsyncClient.start_task."""

    purpose: str
    initiator: Initiator
    tools: Sequence[str]
    resources: Sequence[str]
    ceiling: str
    objective: str
    ttl: timedelta | None
    traceparent: str


def start_request(request_id: str, new: NewTask) -> task_pb2.StartTaskRequest:
    """The request on the wire. The sidecar checks it."""
    request = task_pb2.StartTaskRequest(
        request_id=request_id,
        purpose=new.purpose,
        objective=new.objective,
        initiator=common_pb2.Initiator(
            kind=_KINDS[new.initiator.kind], id=new.initiator.id, credential=new.initiator.credential
        ),
        scope=task_pb2.TaskScope(tools=new.tools, resources=new.resources, ceiling=new.ceiling),
        traceparent=new.traceparent,
    )
    if new.ttl is not None:
        request.ttl.FromTimedelta(new.ttl)
    return request


def read_started(response: task_pb2.StartTaskResponse) -> TaskInfo:
    """The task that was started. Raises TaskRefused for all but a permit, and SidecarUnavailable for nonsense."""
    if response.outcome != common_pb2.OUTCOME_PERMIT:
        raise TaskRefused(response.reason_code or "unknown_outcome", policies(response.determining_policies))
    return read_task(response.task)


def read_task(task: task_pb2.Task) -> TaskInfo:
    """Raises SidecarUnavailable when it is not a whole task."""
    if not (task.task_id and task.HasField("started_at") and task.HasField("expires_at")):
        raise invalid_answer("a task without its identifier or its times")
    try:
        return TaskInfo(
            id=task.task_id,
            agent=task.agent,
            state=common_pb2.TaskState.Name(task.state).removeprefix(_STATE_PREFIX).lower(),
            purpose=task.purpose,
            environment=task.environment,
            tools=tuple(task.scope.tools),
            resources=tuple(task.scope.resources),
            ceiling=task.scope.ceiling,
            started_at=task.started_at.ToDatetime(UTC),
            expires_at=task.expires_at.ToDatetime(UTC),
        )
    except (ValueError, OverflowError):
        raise invalid_answer("a task with a state or a time that does not exist") from None
