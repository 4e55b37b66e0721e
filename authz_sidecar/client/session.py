"""What the asyncio client and the blocking client have in common: one agent's dealings with its sidecar."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from authz_sidecar.client.answers import permits, read_decision
from authz_sidecar.client.arguments import encode_arguments, result_sha256
from authz_sidecar.client.call import Asked, CallOptions, asked
from authz_sidecar.client.credentials import BearerJwtSvid, ChannelSource, MutualTls, SvidFiles
from authz_sidecar.client.decision import Decision, Permitted
from authz_sidecar.client.errors import RequestRejected, SidecarUnavailable
from authz_sidecar.client.failures import invalid_answer
from authz_sidecar.client.outcomes import Outcome, OutcomeReporter, OutcomeStatus
from authz_sidecar.client.stream import Answer
from authz_sidecar.client.tasks import NewTask, TaskInfo, read_started, read_task, start_request
from authz_sidecar.client.transport import Transport
from authz_sidecar.v1 import authorization_pb2, task_pb2

_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")


class Session:
    """Asks, reports and closes. Coroutines belong to one event loop; the other methods to whoever calls them."""

    def __init__(
        self,
        target: str,
        *,
        svid: SvidFiles | None,
        jwt_svid: Callable[[], str] | os.PathLike[str] | None,
        proof_key_thumbprint: str,
        server_name: str,
        timeout: timedelta,
        traceparent: Callable[[], str | None] | None,
        new_request_id: Callable[[], str],
        now: Callable[[], datetime],
    ) -> None:
        """See AsyncClient. Raises ValueError or TypeError for combinations that cannot work."""
        if proof_key_thumbprint and not _THUMBPRINT.fullmatch(proof_key_thumbprint):
            raise ValueError("`proof_key_thumbprint` must be a base64url SHA-256 of 43 characters")
        if timeout <= timedelta(0):
            raise ValueError("`timeout` must be positive")
        source: ChannelSource
        if svid is not None and jwt_svid is None:
            source = MutualTls(target, svid, server_name)
        elif jwt_svid is not None and svid is None:
            if not proof_key_thumbprint:
                raise ValueError("`jwt_svid` needs `proof_key_thumbprint`: tokens have to be bound to a key")
            source = BearerJwtSvid(target, jwt_svid)
        else:
            raise ValueError("give either `svid` or `jwt_svid`")
        self._timeout_s = timeout.total_seconds()
        self._transport = Transport(source, timeout_s=self._timeout_s, on_unclaimed=self._unclaimed)
        self._reporter = OutcomeReporter(self._send_outcome)
        self._proof_key_thumbprint = proof_key_thumbprint
        self._traceparent = traceparent
        self._new_request_id = new_request_id
        self._closed = False
        self.now = now

    @property
    def unreported_outcomes(self) -> int:
        return self._reporter.unreported

    def trace(self, traceparent: str | None) -> str:
        """The trace context to send: the one given, or the callable's, in the context of whoever calls this."""
        if traceparent is None and self._traceparent is not None:
            traceparent = self._traceparent()
        return traceparent or ""

    async def start_task(self, new: NewTask) -> TaskInfo:
        """Raises TaskRefused, RequestRejected and SidecarUnavailable."""
        request = start_request(self._new_request_id(), new)
        return read_started(await self._transport.call(lambda c: c.tasks.StartTask, request))

    async def get_task(self, task_id: str) -> TaskInfo:
        """Raises RequestRejected and SidecarUnavailable."""
        response = await self._transport.call(lambda c: c.tasks.GetTask, task_pb2.GetTaskRequest(task_id=task_id))
        if response.task.task_id != task_id:
            raise invalid_answer("another task than the one asked for")
        return read_task(response.task)

    async def complete_task(self, task_id: str, summary: str) -> TaskInfo:
        """Raises RequestRejected when it ended otherwise, and SidecarUnavailable."""
        request = task_pb2.CompleteTaskRequest(task_id=task_id, summary=summary)
        try:
            response = await self._transport.call(lambda c: c.tasks.CompleteTask, request)
        except RequestRejected as rejected:
            # The answer to a first attempt may have been lost: then it is complete, and asking again says so.
            if rejected.reason != "TASK_NOT_ACTIVE" or (info := await self.get_task(task_id)).state != "completed":
                raise
            return info
        return read_task(response.task)

    def asked(
        self, task_id: str, tool: tuple[str, str], arguments: Mapping[str, object], options: CallOptions
    ) -> Asked:
        """A request that was not sent yet, in the trace of whoever calls this. Raises RequestRejected."""
        return asked(
            request_id=self._new_request_id(),
            task_id=task_id,
            tool=tool,
            arguments=arguments,
            options={**options, "traceparent": self.trace(options.get("traceparent"))},
            proof_key_thumbprint=self._proof_key_thumbprint,
        )

    async def decide(self, asked: Asked) -> Decision:
        """Ask the sidecar. Raises RequestRejected and SidecarUnavailable."""
        request = asked.request
        response = await self._transport.authorize(request)
        try:
            decision = read_decision(request, response)
        except SidecarUnavailable as invalid:
            self._not_attempted(response, invalid.reason, to=request.request_id)
            raise
        if not isinstance(decision, Permitted):
            self._not_attempted(response, decision.reason_code, to=request.request_id)
        return decision

    def outcome(
        self,
        permit: Permitted,
        status: OutcomeStatus,
        *,
        arguments: Mapping[str, object] | None,
        result: object,
        detail: str,
    ) -> Outcome:
        """An outcome from the values themselves, in the trace of whoever calls this. Raises RequestRejected."""
        return Outcome(
            decision_id=permit.decision_id,
            status=status,
            result_sha256=result_sha256(result),
            arguments_sha256=encode_arguments(arguments).sha256 if arguments is not None else b"",
            detail=detail,
            traceparent=self.trace(None),
        )

    def report(self, outcome: Outcome) -> None:
        """Report in the background, on the event loop's thread. Never raises for what cannot be delivered."""
        if self._closed:
            self._reporter.give_up(outcome, "the client was closed")
        else:
            self._reporter.submit(outcome)

    def give_up(self, outcome: Outcome, why: str) -> None:
        """Count and log an outcome that will not be reported. May be called on any thread."""
        self._reporter.give_up(outcome, why)

    async def close(self) -> None:
        """Deliver outstanding reports, for at most the timeout, then disconnect. Calls in progress fail."""
        if not self._closed:
            self._closed = True
            await self._reporter.flush(self._timeout_s)
            await self._transport.close()

    async def _send_outcome(
        self, request: authorization_pb2.ReportOutcomeRequest
    ) -> authorization_pb2.ReportOutcomeResponse:
        return await self._transport.call(lambda c: c.authorization.ReportOutcome, request)

    def _unclaimed(self, answer: Answer) -> None:
        self._not_attempted(answer.response, "the caller had stopped waiting", to=answer.request_id)

    def _not_attempted(self, response: authorization_pb2.AuthorizeResponse, detail: str, *, to: str) -> None:
        """A permit that nobody will act on still owes its outcome, unless it is about something else altogether."""
        if permits(response) and response.request_id == to:
            self.report(Outcome(decision_id=response.decision_id, status=OutcomeStatus.NOT_ATTEMPTED, detail=detail))
