"""The RPCs of a task's life after its start: convert, call one use case, convert back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from authz_sidecar.engine.commands import delegate_task_command, task_reference
from authz_sidecar.engine.core import Core
from authz_sidecar.engine.delegation import DelegateTask
from authz_sidecar.engine.lifecycle import ChangeTask, TransitionAnswer
from authz_sidecar.engine.tasks import ListTasks
from authz_sidecar.errors import InvalidRequest, RoleRequired
from authz_sidecar.identity.subject import Subject
from authz_sidecar.server import convert
from authz_sidecar.server.access import Role, Roles
from authz_sidecar.server.rpc import UnaryHandler
from authz_sidecar.task.model import TaskEvent
from authz_sidecar.telemetry.tracing import Tracing
from authz_sidecar.v1 import task_pb2

_PAGE, _MOST = 100, 500
_STATES = {number: state for state, number in convert.STATES.items()}


class TaskService:
    """Handlers by RPC name, over the use cases."""

    def __init__(self, *, core: Core, roles: Roles, tracing: Tracing) -> None:
        self._core = core
        self._roles = roles
        self._tracing = tracing
        self._delegate_task = DelegateTask(core)
        self._change_task = ChangeTask(core)
        self._list_tasks = ListTasks(core)

    def unary(self) -> Mapping[str, UnaryHandler]:
        return {
            "TaskService/DelegateTask": self.delegate_task,
            "TaskService/ListTasks": self.list_tasks,
            "TaskService/SuspendTask": self.suspend_task,
            "TaskService/ResumeTask": self.resume_task,
            "TaskService/CompleteTask": self.complete_task,
            "TaskService/CancelTask": self.cancel_task,
        }

    async def delegate_task(
        self, subject: Subject, request: task_pb2.DelegateTaskRequest
    ) -> task_pb2.DelegateTaskResponse:
        classes = self._core.policy().bundle.data
        command = delegate_task_command(
            request_id=request.request_id,
            parent_task_id=request.parent_task_id,
            agent=request.agent,
            purpose=request.purpose,
            tools=list(request.scope.tools),
            resources=list(request.scope.resources),
            ceiling=request.scope.ceiling,
            ttl=convert.duration("ttl", request.ttl) if request.HasField("ttl") else None,
            traceparent=request.traceparent,
            class_exists=lambda name: classes.level(name) is not None,
        )
        with self._tracing.span("DelegateTask", parent=command.trace) as here:
            answer = await self._delegate_task(subject, replace(command, trace=here))
        return task_pb2.DelegateTaskResponse(
            outcome=convert.outcome(answer.verdict),
            reason_code=answer.verdict.reason_code,
            determining_policies=convert.determining(answer.verdict.determining),
            task=convert.task(answer.task) if answer.task else None,
            position=convert.position(answer.position),
        )

    async def list_tasks(self, subject: Subject, request: task_pb2.ListTasksRequest) -> task_pb2.ListTasksResponse:
        agent = request.agent
        if not self._operator(subject):
            agent = agent or str(subject.spiffe_id)
            if agent != str(subject.spiffe_id):
                raise RoleRequired("listing tasks of another agent needs the role operator")
        if request.page_size > _MOST:
            raise InvalidRequest.of("page_size", f"expected at most {_MOST}, got {request.page_size}")
        if unknown := [number for number in request.states if number not in _STATES]:
            raise InvalidRequest.of("states", f"`{unknown[0]}` is not a state of a task")
        page = self._list_tasks(
            agent=agent,
            states=frozenset(_STATES[number] for number in request.states),
            before=_before(request.page_token),
            size=request.page_size or _PAGE,
        )
        return task_pb2.ListTasksResponse(
            tasks=[convert.task(task) for task in page.tasks],
            next_page_token=str(page.before) if page.before is not None else "",
        )

    async def suspend_task(
        self, subject: Subject, request: task_pb2.SuspendTaskRequest
    ) -> task_pb2.SuspendTaskResponse:
        answer = await self._change(subject, TaskEvent.SUSPEND, request.task_id, "reason", request.reason)
        return task_pb2.SuspendTaskResponse(
            task=convert.task(answer.task),
            position=convert.position(answer.position),
            revocation_epoch=answer.revocation_epoch,
        )

    async def resume_task(self, subject: Subject, request: task_pb2.ResumeTaskRequest) -> task_pb2.ResumeTaskResponse:
        answer = await self._change(subject, TaskEvent.RESUME, request.task_id, "reason", request.reason)
        return task_pb2.ResumeTaskResponse(task=convert.task(answer.task), position=convert.position(answer.position))

    async def complete_task(
        self, subject: Subject, request: task_pb2.CompleteTaskRequest
    ) -> task_pb2.CompleteTaskResponse:
        answer = await self._change(subject, TaskEvent.COMPLETE, request.task_id, "summary", request.summary)
        return task_pb2.CompleteTaskResponse(
            task=convert.task(answer.task),
            position=convert.position(answer.position),
            revocation_epoch=answer.revocation_epoch,
        )

    async def cancel_task(self, subject: Subject, request: task_pb2.CancelTaskRequest) -> task_pb2.CancelTaskResponse:
        answer = await self._change(subject, TaskEvent.CANCEL, request.task_id, "reason", request.reason)
        return task_pb2.CancelTaskResponse(
            task=convert.task(answer.task),
            position=convert.position(answer.position),
            revocation_epoch=answer.revocation_epoch,
        )

    async def _change(
        self, subject: Subject, event: TaskEvent, task_id: str, note_field: str, note: str
    ) -> TransitionAnswer:
        task_reference(task_id, note_field=note_field, note=note)
        return await self._change_task(subject, event, task_id, note, operator=self._operator(subject))

    def _operator(self, subject: Subject) -> bool:
        return Role.OPERATOR in self._roles.of(subject)


def _before(token: str) -> int | None:
    """The index that a page token stands for. Raises InvalidRequest."""
    if not token:
        return None
    if not token.isascii() or not token.isdigit() or len(token) > 18 or str(int(token)) != token:
        raise InvalidRequest.of("page_token", "not a token that a page came with")
    return int(token)
