"""The RPCs: convert, call one use case, convert back. No rule lives here."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from authz_sidecar.audit.timeline import timeline
from authz_sidecar.engine.authorize import Authorize
from authz_sidecar.engine.commands import CommandLimits, task_reference
from authz_sidecar.engine.core import Core
from authz_sidecar.engine.introspect import IntrospectToken
from authz_sidecar.engine.outcome import ReportOutcome
from authz_sidecar.engine.tasks import GetTask, StartTask
from authz_sidecar.errors import InvalidRequest, RecordNotFound
from authz_sidecar.identity.subject import Subject
from authz_sidecar.ledger.filters import QueryFilter
from authz_sidecar.server import convert
from authz_sidecar.server.access import Role, Roles
from authz_sidecar.server.rpc import ServerStreamHandler, UnaryHandler
from authz_sidecar.strictjson import Json
from authz_sidecar.telemetry.tracing import Tracing
from authz_sidecar.v1 import authorization_pb2, ledger_pb2, policy_pb2, task_pb2, token_pb2

_MOST_BATCHED = 32
_PAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStatus:
    """What `GetPolicyStatus` reports beside the active bundle itself."""

    activated_at: datetime
    rejected_digest: str = ""
    rejected_reason: str = ""


class Services:
    """Handlers by RPC name, over the use cases."""

    def __init__(
        self,
        *,
        core: Core,
        introspect: IntrospectToken,
        roles: Roles,
        limits: CommandLimits,
        jwks: Callable[[], bytes],
        issuer: str,
        vkey: str,
        policy_status: Callable[[], PolicyStatus],
        tracing: Tracing,
    ) -> None:
        self._core = core
        self._authorize = Authorize(core)
        self._report_outcome = ReportOutcome(core)
        self._start_task = StartTask(core)
        self._get_task = GetTask(core)
        self._introspect = introspect
        self._roles = roles
        self._limits = limits
        self._jwks = jwks
        self._issuer = issuer
        self._vkey = vkey
        self._policy_status = policy_status
        self._tracing = tracing

    def unary(self) -> Mapping[str, UnaryHandler]:
        return {
            "AuthorizationService/Authorize": self.authorize,
            "AuthorizationService/ReportOutcome": self.report_outcome,
            "TaskService/StartTask": self.start_task,
            "TaskService/GetTask": self.get_task,
            "TokenService/IntrospectToken": self.introspect_token,
            "TokenService/GetJwks": self.get_jwks,
            "PolicyService/GetPolicyStatus": self.get_policy_status,
            "LedgerService/GetRecord": self.get_record,
            "LedgerService/GetTimeline": self.get_timeline,
            "LedgerService/GetCheckpoint": self.get_checkpoint,
        }

    def server_stream(self) -> Mapping[str, ServerStreamHandler]:
        return {"LedgerService/QueryRecords": self.query_records}

    async def authorize(
        self, subject: Subject, request: authorization_pb2.AuthorizeRequest
    ) -> authorization_pb2.AuthorizeResponse:
        command = convert.to_authorize_command(request, self._limits)
        with self._tracing.span("Authorize", parent=command.trace) as here:
            answer = await self._authorize(subject, replace(command, trace=here))
        return convert.authorize_response(answer)

    async def report_outcome(
        self, subject: Subject, request: authorization_pb2.ReportOutcomeRequest
    ) -> authorization_pb2.ReportOutcomeResponse:
        command = convert.to_report_outcome_command(request)
        with self._tracing.span("ReportOutcome", parent=command.trace) as here:
            answer = await self._report_outcome(subject, replace(command, trace=here))
        return authorization_pb2.ReportOutcomeResponse(
            position=convert.position(answer.position),
            contradictions=answer.contradictions,
            recalled=answer.recalled,
        )

    async def start_task(self, subject: Subject, request: task_pb2.StartTaskRequest) -> task_pb2.StartTaskResponse:
        classes = self._core.policy().bundle.data
        command = convert.to_start_task_command(request, lambda name: classes.level(name) is not None)
        with self._tracing.span("StartTask", parent=command.trace) as here:
            answer = await self._start_task(subject, replace(command, trace=here))
        return task_pb2.StartTaskResponse(
            outcome=convert.outcome(answer.verdict),
            reason_code=answer.verdict.reason_code,
            determining_policies=convert.determining(answer.verdict.determining),
            task=convert.task(answer.task) if answer.task else None,
            policy_digest=answer.policy_digest,
            position=convert.position(answer.position),
            recalled=answer.recalled,
        )

    async def get_task(self, subject: Subject, request: task_pb2.GetTaskRequest) -> task_pb2.GetTaskResponse:
        task_id, _ = task_reference(request.task_id)
        any_agent = Role.OPERATOR in self._roles.of(subject)
        return task_pb2.GetTaskResponse(task=convert.task(self._get_task(subject, task_id, any_agent=any_agent)))

    async def introspect_token(
        self, _subject: Subject, request: token_pb2.IntrospectTokenRequest
    ) -> token_pb2.IntrospectTokenResponse:
        answer = self._introspect(request.token)
        return token_pb2.IntrospectTokenResponse(
            active=answer.claims is not None,
            claims_json=_compact(answer.claims) if answer.claims is not None else b"",
            revocation_epoch=answer.revocation_epoch,
        )

    async def get_jwks(self, _subject: Subject, _request: token_pb2.GetJwksRequest) -> token_pb2.GetJwksResponse:
        return token_pb2.GetJwksResponse(jwks_json=self._jwks(), issuer=self._issuer)

    async def get_policy_status(
        self, _subject: Subject, _request: policy_pb2.GetPolicyStatusRequest
    ) -> policy_pb2.GetPolicyStatusResponse:
        pdp = self._core.policy()
        state = self._policy_status()
        return policy_pb2.GetPolicyStatusResponse(
            policy_digest=pdp.digest,
            policies=len(pdp.policies),
            tools=len(pdp.bundle.catalog.tools),
            agents=len(pdp.bundle.agents),
            engine=pdp.engine,
            activated_at=convert.timestamp(state.activated_at),
            rejected_digest=state.rejected_digest,
            rejected_reason=state.rejected_reason,
        )

    async def get_record(self, _subject: Subject, request: ledger_pb2.GetRecordRequest) -> ledger_pb2.GetRecordResponse:
        ledger = self._core.ledger
        match request.WhichOneof("key"):
            case "index":
                entry = ledger.entry(request.index)
            case "decision_id":
                entry = ledger.decision(request.decision_id)
            case _:
                raise InvalidRequest.of("key", "set `index` or `decision_id`")
        if entry is None:
            raise RecordNotFound("no such record in this ledger")
        return ledger_pb2.GetRecordResponse(record=convert.record(entry, ledger.origin))

    async def query_records(
        self, _subject: Subject, request: ledger_pb2.QueryRecordsRequest
    ) -> AsyncIterator[ledger_pb2.QueryRecordsResponse]:
        """Pages through the index, so that a long query never holds the event loop or a read transaction."""
        ledger = self._core.ledger
        after = request.after_index if request.HasField("after_index") else None
        remaining = request.limit or None
        while remaining is None or remaining > 0:
            size = _PAGE if remaining is None else min(_PAGE, remaining)
            page = list(ledger.query(_filter(request, after, size)))
            for entry in page:
                yield ledger_pb2.QueryRecordsResponse(record=convert.record(entry, ledger.origin))
            if len(page) < size:
                return
            after = page[-1].index
            remaining = remaining - size if remaining is not None else None

    async def get_timeline(
        self, _subject: Subject, request: ledger_pb2.GetTimelineRequest
    ) -> ledger_pb2.GetTimelineResponse:
        ledger = self._core.ledger
        task_id, _ = task_reference(request.task_id)
        found = timeline(ledger, task_id)
        return ledger_pb2.GetTimelineResponse(
            records=[convert.record(event.entry, ledger.origin) for event in found.events],
            missing_outcomes=found.missing_outcomes,
            receipts=[
                ledger_pb2.ReceiptComparison(
                    decision_id=one.decision_id,
                    receipt_index=one.receipt_index,
                    outcome_index=one.outcome_index,
                    differences=one.differences,
                )
                for one in found.receipts
            ],
        )

    async def get_checkpoint(
        self, _subject: Subject, _request: ledger_pb2.GetCheckpointRequest
    ) -> ledger_pb2.GetCheckpointResponse:
        return ledger_pb2.GetCheckpointResponse(note=self._core.ledger.latest_checkpoint() or "", vkey=self._vkey)


def _compact(claims: dict[str, Json]) -> bytes:
    return json.dumps(claims, separators=(",", ":"), sort_keys=True).encode()


def _filter(request: ledger_pb2.QueryRecordsRequest, after: int | None, size: int) -> QueryFilter:
    time = request.time
    return QueryFilter(
        types=tuple(request.types),
        agent=request.agent,
        task_id=request.task_id,
        tool=request.tool,
        resource=request.resource,
        outcome=convert.OUTCOME_NAMES.get(request.outcome, ""),
        jti=request.jti,
        since=convert.from_timestamp(time.start) if time.HasField("start") else None,
        until=convert.from_timestamp(time.end) if time.HasField("end") else None,
        after_index=after,
        limit=size,
    )
