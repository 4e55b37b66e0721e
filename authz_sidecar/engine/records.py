"""What is written down: one builder per record type, from the values the use cases hold to the ledger's JSON.

The leaf holds what an auditor may always see. What may have to be erased one day (arguments, objectives, free text)
goes into the payload, to which the leaf commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from authz_sidecar.clock import format_time
from authz_sidecar.engine.commands import AuthorizeCommand, ReportOutcomeCommand, StartTaskCommand
from authz_sidecar.engine.facts import CallFacts
from authz_sidecar.engine.record_parts import (
    OUTCOMES,
    actor_part,
    initiator_part,
    policy_part,
    trace_part,
    verdict_part,
)
from authz_sidecar.identity.subject import Subject
from authz_sidecar.ledger.records import Record, envelope
from authz_sidecar.pdp.evaluate import Pdp
from authz_sidecar.pdp.verdict import Permit, Verdict
from authz_sidecar.policy.catalog import DerivedResource, Tool
from authz_sidecar.policy.data import Classification
from authz_sidecar.strictjson import Json
from authz_sidecar.task.model import Session, Task, delegation_to_json, task_to_json

__all__ = ["OUTCOMES", "decision", "grant_void", "outcome", "task_start"]


def decision(
    *,
    decision_id: str,
    now: datetime,
    subject: Subject,
    command: AuthorizeCommand,
    facts: CallFacts,
    environment: str,
    production: bool,
    pdp: Pdp,
    verdict: Verdict,
    token: Mapping[str, Json] | None,
    evaluated: Json,
    revocation_epoch: int,
) -> Record:
    """Step 6: everything a stranger needs to see who asked what, why it was answered so, and what was handed out.

    `evaluated` is the query exactly as the engine saw it; with the bundle of the recorded digest it can be replayed.
    `revocation_epoch` says which revocations the decision comes after; every later one may cover its token.
    """
    task = facts.task
    body = envelope(
        "decision",
        record_id=decision_id,
        time=now,
        trace=trace_part(command.trace),
        actor=actor_part(subject),
        initiator=initiator_part(task) if task else None,
        purpose=task.purpose if task else None,
        task=_task_at(task, now) if task else {"id": command.task_id},
        request={"id": command.request_id, "sha256": command.content_sha256},
        tool=_tool(command, facts.tool),
        action=command.tool,
        audience=facts.audience or command.audience,
        resource=_resource(facts.resource, facts.classification),
        environment={"name": environment, "production": production},
        session=_session(facts.session) if facts.session else None,
        policy=policy_part(pdp),
        token=dict(token) if token else None,
        revocation_epoch=revocation_epoch,
        **verdict_part(verdict),
    )
    if task is not None and task.delegation:
        body["delegation"] = delegation_to_json(task.delegation)
    payload: dict[str, Json] = {"evaluated": evaluated}
    if command.justification:
        payload["justification"] = command.justification
    return Record(type="decision", body=body, payload=payload)


def task_start(
    *,
    record_id: str,
    now: datetime,
    subject: Subject,
    command: StartTaskCommand,
    task: Task,
    production: bool,
    pdp: Pdp,
    verdict: Verdict,
    evaluated: Json,
) -> Record:
    """`task_started` on a permit, `task_refused` on anything else."""
    started = isinstance(verdict, Permit)
    record_type = "task_started" if started else "task_refused"
    body = envelope(
        record_type,
        record_id=record_id,
        time=now,
        trace=trace_part(command.trace),
        actor=actor_part(subject),
        initiator=initiator_part(task),
        purpose=task.purpose,
        action="start_task",
        task=task_to_json(task) if started else {"id": task.id},
        request={"id": command.request_id, "sha256": command.content_sha256},
        environment={"name": task.environment, "production": production},
        policy=policy_part(pdp),
        **verdict_part(verdict),
    )
    return Record(type=record_type, body=body, payload={"evaluated": evaluated, "objective": command.objective})


def outcome(
    *,
    record_id: str,
    now: datetime,
    subject: Subject,
    command: ReportOutcomeCommand,
    task_id: str,
    decision_index: int,
    contradictions: Iterable[str],
) -> Record:
    """What the agent says happened to a permitted call."""
    body = envelope(
        "outcome",
        record_id=record_id,
        time=now,
        trace=trace_part(command.trace),
        actor=actor_part(subject),
        task={"id": task_id},
        decision={"id": command.decision_id, "index": decision_index},
        status=command.status,
        result_sha256=command.result_sha256,
        arguments_sha256=command.arguments_sha256,
        contradictions=list(contradictions),
    )
    return Record(type="outcome", body=body, payload={"detail": command.detail} if command.detail else None)


def grant_void(
    *, record_id: str, now: datetime, subject: Subject, task_id: str, decision_id: str, index: int, reason: str
) -> Record:
    """A permit whose token never left: it became durable too late, or its task ended meanwhile."""
    body = envelope(
        "grant_void",
        record_id=record_id,
        time=now,
        actor=actor_part(subject),
        task={"id": task_id},
        decision={"id": decision_id, "index": index},
        reason=reason,
    )
    return Record(type="grant_void", body=body)


def _task_at(task: Task, now: datetime) -> dict[str, Json]:
    return {
        "id": task.id,
        "state": task.state_at(now).value,
        "epoch": task.epoch,
        "expires_at": format_time(task.expires_at),
        "depth": task.depth,
    }


def _tool(command: AuthorizeCommand, tool: Tool | None) -> dict[str, Json]:
    server, _, name = command.tool.partition("/")
    return {
        "server": server,
        "name": name,
        "permission": tool.permission if tool else None,
        "risks": [*sorted(tool.risks)] if tool else [],
        "call_id": command.tool_call_id or None,
        "arguments_sha256": command.arguments_sha256,
    }


def _resource(resource: DerivedResource | None, classification: Classification | None) -> dict[str, Json] | None:
    if resource is None or classification is None:
        return None
    return {
        "id": resource.id,
        "classification": classification.name,
        "level": classification.level,
        "owner": classification.owner,
        "source": resource.source,
    }


def _session(session: Session) -> dict[str, Json]:
    return {"calls": session.calls, "tool_calls": dict(session.tool_calls), "max_read": session.max_read}
