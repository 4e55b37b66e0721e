"""Between the wire and the domain. Protobuf goes no further than this module's neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from authz_sidecar.clock import parse_time
from authz_sidecar.engine.authorize import AuthorizeAnswer
from authz_sidecar.engine.commands import (
    AuthorizeCommand,
    CommandLimits,
    ExecutionStatus,
    ReportOutcomeCommand,
    StartTaskCommand,
    authorize_command,
    report_outcome_command,
    start_task_command,
)
from authz_sidecar.engine.records import OUTCOMES
from authz_sidecar.errors import InvalidRequest
from authz_sidecar.ledger.reader import StoredEntry
from authz_sidecar.ledger.store import Position
from authz_sidecar.pdp.verdict import PolicyRef, Verdict
from authz_sidecar.task.model import Task, TaskState
from authz_sidecar.token.mint import MintedToken
from authz_sidecar.v1 import authorization_pb2, common_pb2, ledger_pb2, task_pb2

_OUTCOME: dict[str, common_pb2.Outcome.ValueType] = {
    "permit": common_pb2.OUTCOME_PERMIT,
    "deny": common_pb2.OUTCOME_DENY,
    "approval_required": common_pb2.OUTCOME_APPROVAL_REQUIRED,
}
OUTCOME_NAMES = {number: name for name, number in _OUTCOME.items()}
STATES: dict[TaskState, common_pb2.TaskState.ValueType] = {
    TaskState.ACTIVE: common_pb2.TASK_STATE_ACTIVE,
    TaskState.SUSPENDED: common_pb2.TASK_STATE_SUSPENDED,
    TaskState.COMPLETED: common_pb2.TASK_STATE_COMPLETED,
    TaskState.CANCELLED: common_pb2.TASK_STATE_CANCELLED,
    TaskState.EXPIRED: common_pb2.TASK_STATE_EXPIRED,
}
_INITIATOR: dict[int, Literal["human", "workflow"]] = {
    common_pb2.INITIATOR_KIND_HUMAN: "human",
    common_pb2.INITIATOR_KIND_WORKFLOW: "workflow",
}
_STATUS: dict[int, ExecutionStatus] = {
    authorization_pb2.EXECUTION_STATUS_SUCCESS: "success",
    authorization_pb2.EXECUTION_STATUS_FAILURE: "failure",
    authorization_pb2.EXECUTION_STATUS_TIMEOUT: "timeout",
    authorization_pb2.EXECUTION_STATUS_NOT_ATTEMPTED: "not_attempted",
}


def to_authorize_command(request: authorization_pb2.AuthorizeRequest, limits: CommandLimits) -> AuthorizeCommand:
    """Raises InvalidRequest."""
    form = request.WhichOneof("arguments")
    return authorize_command(
        request_id=request.request_id,
        task_id=request.task_id,
        tool_server=request.tool_server,
        tool_name=request.tool_name,
        arguments_json=request.arguments_json if form == "arguments_json" else None,
        arguments_digest=request.arguments_sha256 if form == "arguments_sha256" else None,
        resource=request.resource,
        audience=request.audience,
        justification=request.justification,
        tool_call_id=request.tool_call_id,
        traceparent=request.traceparent,
        proof_key_thumbprint=request.proof_key_thumbprint,
        min_policy_digest=request.min_policy_digest,
        at_least_epoch=request.at_least_epoch,
        limits=limits,
    )


def to_start_task_command(request: task_pb2.StartTaskRequest, class_exists: Callable[[str], bool]) -> StartTaskCommand:
    """Raises InvalidRequest."""
    if request.initiator.credential:
        raise InvalidRequest.of(
            "initiator.credential", "this version verifies no credential of an initiator; leave it empty: a claim"
        )
    return start_task_command(
        request_id=request.request_id,
        purpose=request.purpose,
        objective=request.objective,
        initiator_kind=_INITIATOR.get(request.initiator.kind),
        initiator_id=request.initiator.id,
        tools=list(request.scope.tools),
        resources=list(request.scope.resources),
        ceiling=request.scope.ceiling,
        ttl=duration("ttl", request.ttl) if request.HasField("ttl") else None,
        traceparent=request.traceparent,
        class_exists=class_exists,
    )


def duration(field: str, value: Duration) -> timedelta:
    """Raises InvalidRequest for what Python's timedelta, or the contract's Duration, cannot hold."""
    try:
        return value.ToTimedelta()
    except (ValueError, OverflowError):
        raise InvalidRequest.of(field, "expected a duration that a calendar can hold") from None


def to_report_outcome_command(request: authorization_pb2.ReportOutcomeRequest) -> ReportOutcomeCommand:
    """Raises InvalidRequest."""
    return report_outcome_command(
        decision_id=request.decision_id,
        status=_STATUS.get(request.status),
        result_sha256=request.result_sha256,
        arguments_sha256=request.arguments_sha256,
        detail=request.detail,
        traceparent=request.traceparent,
    )


def timestamp(moment: datetime) -> Timestamp:
    result = Timestamp()
    result.FromDatetime(moment.astimezone(UTC).replace(tzinfo=None))
    return result


def from_timestamp(value: Timestamp) -> datetime:
    return value.ToDatetime(tzinfo=UTC)


def position(value: Position) -> common_pb2.LedgerPosition:
    return common_pb2.LedgerPosition(log=value.log, index=value.index)


def outcome(verdict: Verdict) -> common_pb2.Outcome.ValueType:
    return _OUTCOME[OUTCOMES[type(verdict)]]


def determining(refs: Iterable[PolicyRef]) -> list[common_pb2.DeterminingPolicy]:
    return [
        common_pb2.DeterminingPolicy(id=ref.id, effect=ref.effect, tier=ref.tier, reason=ref.reason, sha256=ref.sha256)
        for ref in refs
    ]


def authorize_response(answer: AuthorizeAnswer) -> authorization_pb2.AuthorizeResponse:
    return authorization_pb2.AuthorizeResponse(
        request_id=answer.request_id,
        decision_id=answer.decision_id,
        outcome=outcome(answer.verdict),
        reason_code=answer.verdict.reason_code,
        determining_policies=determining(answer.verdict.determining),
        token=_token(answer.token) if answer.token else None,
        policy_digest=answer.policy_digest,
        revocation_epoch=answer.revocation_epoch,
        position=position(answer.position),
        resource=answer.resource or "",
        recalled=answer.recalled,
    )


def _token(token: MintedToken) -> authorization_pb2.Token:
    return authorization_pb2.Token(
        value=token.value, jti=token.jti, audience=token.audience, expires_at=timestamp(token.expires_at)
    )


def task(value: Task) -> task_pb2.Task:
    kind = common_pb2.INITIATOR_KIND_HUMAN if value.initiator.kind == "human" else common_pb2.INITIATOR_KIND_WORKFLOW
    return task_pb2.Task(
        task_id=value.id,
        agent=value.agent,
        state=STATES[value.state],
        purpose=value.purpose,
        initiator=common_pb2.Initiator(kind=kind, id=value.initiator.id, verified=value.initiator.verified),
        scope=task_pb2.TaskScope(
            tools=sorted(value.scope.tools), resources=value.scope.resources, ceiling=value.scope.ceiling
        ),
        started_at=timestamp(value.started_at),
        expires_at=timestamp(value.expires_at),
        ended_at=timestamp(value.ended_at) if value.ended_at else None,
        epoch=value.epoch,
        parent_task_id=value.parent_id or "",
        depth=value.depth,
        environment=value.environment,
    )


def record(entry: StoredEntry, log: str) -> ledger_pb2.Record:
    body = entry.record
    return ledger_pb2.Record(
        position=common_pb2.LedgerPosition(log=log, index=entry.index),
        type=str(body["type"]),
        time=timestamp(parse_time(str(body["time"]))),
        entry_json=entry.body,
        leaf_hash=entry.leaf_hash,
        payload_json=entry.payload or b"",
    )
