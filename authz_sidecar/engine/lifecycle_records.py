"""Records of a task's life after its start: changed, delegated, refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from authz_sidecar.clock import format_time
from authz_sidecar.engine.commands import DelegateTaskCommand
from authz_sidecar.engine.record_parts import actor_part, initiator_part, policy_part, trace_part, verdict_part
from authz_sidecar.identity.subject import Subject
from authz_sidecar.ledger.records import Record, envelope, member
from authz_sidecar.pdp.evaluate import Pdp
from authz_sidecar.pdp.verdict import Permit, Verdict
from authz_sidecar.strictjson import Json
from authz_sidecar.task.model import Hold, Task, TaskEvent, task_to_json

_TYPES: Mapping[TaskEvent, str] = {
    TaskEvent.SUSPEND: "task_suspended",
    TaskEvent.RESUME: "task_resumed",
    TaskEvent.COMPLETE: "task_completed",
    TaskEvent.CANCEL: "task_cancelled",
    TaskEvent.EXPIRE: "task_expired",
}


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A question that was asked and what the policies said."""

    pdp: Pdp
    query: Json
    verdict: Verdict

    @property
    def members(self) -> dict[str, Json]:
        return {"policy": policy_part(self.pdp), **verdict_part(self.verdict)}

    @property
    def reasons(self) -> dict[str, Json]:
        """What permitted a change; that it was permitted goes without saying."""
        return {"policy": policy_part(self.pdp), "determining": verdict_part(self.verdict)["determining"]}


_NOT_ASKED: Mapping[str, Json] = {"policy": None, "determining": []}


@dataclass(frozen=True, slots=True)
class Cascade:
    """A change that came down from a task above: which one, and what happened to it at whose hands."""

    task_id: str
    event: TaskEvent
    by: Hold

    def to_json(self) -> dict[str, Json]:
        return {"task_id": self.task_id, "event": self.event.value, "by": self.by.value}

    @classmethod
    def of(cls, body: Mapping[str, Json]) -> Cascade | None:
        """What a record says; None when the change did not come from above."""
        if body.get("cascade") is None:
            return None
        event, by = str(member(body, "cascade", "event")), str(member(body, "cascade", "by"))
        return cls(str(member(body, "cascade", "task_id")), TaskEvent(event), Hold(by))


def task_changed(
    *,
    record_id: str,
    now: datetime,
    event: TaskEvent,
    task: Task,
    subject: Subject | None,
    evaluated: Evaluated | None,
    cascade: Cascade | None,
    note: str,
) -> Record:
    """`task_suspended`, `task_expired`, … with the state after it. `subject` is None for what nobody asked for."""
    body = envelope(
        _TYPES[event],
        record_id=record_id,
        time=now,
        actor=actor_part(subject) if subject else None,
        task={
            "id": task.id,
            "state": task.state.value,
            "epoch": task.epoch,
            "ended_at": format_time(task.ended_at) if task.ended_at else None,
            "held_by": task.held_by.value if task.held_by else None,
        },
        cascade=cascade.to_json() if cascade else None,
        **(evaluated.reasons if evaluated else _NOT_ASKED),
    )
    payload: dict[str, Json] = {"evaluated": evaluated.query} if evaluated else {}
    if note:
        payload["note"] = note
    return Record(type=_TYPES[event], body=body, payload=payload or None)


def change_refused(
    *, record_id: str, now: datetime, subject: Subject, action: str, task: Task, evaluated: Evaluated, note: str
) -> Record:
    """`task_refused`: policy did not let somebody change the state of a task."""
    payload: dict[str, Json] = {"evaluated": evaluated.query}
    if note:
        payload["note"] = note
    body = envelope(
        "task_refused",
        record_id=record_id,
        time=now,
        actor=actor_part(subject),
        action=action,
        task={"id": task.id},
        **evaluated.members,
    )
    return Record(type="task_refused", body=body, payload=payload)


def delegation(
    *,
    record_id: str,
    now: datetime,
    subject: Subject,
    command: DelegateTaskCommand,
    child: Task,
    production: bool,
    evaluated: Evaluated,
) -> Record:
    """`task_delegated` with the child, or `task_refused`: a record of the parent with the child that was asked for."""
    delegated = isinstance(evaluated.verdict, Permit)
    record_type = "task_delegated" if delegated else "task_refused"
    document = task_to_json(child)
    asked: dict[str, Json] = (
        {"task": document} if delegated else {"task": {"id": command.parent_task_id}, "requested": document}
    )
    body = envelope(
        record_type,
        record_id=record_id,
        time=now,
        trace=trace_part(command.trace),
        actor=actor_part(subject),
        initiator=initiator_part(child),
        purpose=child.purpose,
        action="delegate_task",
        request={"id": command.request_id, "sha256": command.content_sha256},
        environment={"name": child.environment, "production": production},
        **asked,
        **evaluated.members,
    )
    return Record(type=record_type, body=body, payload={"evaluated": evaluated.query})
