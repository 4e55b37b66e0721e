"""The client for asyncio."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self, Unpack

from authz_sidecar.client.answers import permits, read_decision
from authz_sidecar.client.arguments import encode_arguments, result_sha256
from authz_sidecar.client.call import Asked, CallOptions, GuardedCall, asked, granted
from authz_sidecar.client.credentials import BearerJwtSvid, ChannelSource, MutualTls, SvidFiles
from authz_sidecar.client.decision import Decision, Permitted
from authz_sidecar.client.errors import RequestRejected, SidecarUnavailable
from authz_sidecar.client.failures import invalid_answer
from authz_sidecar.client.guard import AsyncGuard
from authz_sidecar.client.outcomes import Outcome, OutcomeReporter, OutcomeStatus
from authz_sidecar.client.stream import Answer
from authz_sidecar.client.tasks import Initiator, TaskInfo, read_started, read_task, start_request
from authz_sidecar.client.transport import Transport
from authz_sidecar.clock import system_now
from authz_sidecar.v1 import authorization_pb2, task_pb2

DEFAULT_TIMEOUT = timedelta(seconds=5)
DEFAULT_SERVER_NAME = "authz-sidecar"

_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")


def random_request_id() -> str:
    """128 random bits in hex: unique for the agent, whatever else it runs."""
    return secrets.token_hex(16)


class AsyncClient:
    """Asks the sidecar, over one connection. One client serves one event loop; calls may run concurrently.

    Connects at the first call, again whenever the connection is lost, and anew whenever the credential changes.
    """

    def __init__(
        self,
        target: str,
        *,
        svid: SvidFiles | None = None,
        jwt_svid: Callable[[], str] | os.PathLike[str] | None = None,
        proof_key_thumbprint: str = "",
        server_name: str = DEFAULT_SERVER_NAME,
        timeout: timedelta = DEFAULT_TIMEOUT,
        traceparent: Callable[[], str | None] | None = None,
        new_request_id: Callable[[], str] = random_request_id,
        now: Callable[[], datetime] = system_now,
    ) -> None:
        """Make a client; nothing is read or connected yet.

        Args:
            target: `unix:/path/of/socket` or `host:port`.
            svid: files of the agent's X.509-SVID, for mutual TLS. Either this or `jwt_svid`.
            jwt_svid: a callable that returns the agent's JWT-SVID, or the path of a file that holds it; Unix sockets
                only. The callable runs before every call, on the event loop: it has to return at once, and the same
                token until it is renewed, because each new token is a new connection.
            proof_key_thumbprint: RFC 7638 SHA-256 thumbprint of the key that the agent proves to tool servers.
                Required with `jwt_svid`; with `svid` tokens are bound to the certificate.
            server_name: DNS name in the sidecar's SVID. Expected for every kind of target.
            timeout: how long a call may take, lost connections and retries included.
            traceparent: returns the W3C Trace Context of the caller, or None.
            new_request_id: makes request ids; 1 to 128 characters of `[A-Za-z0-9._:-]`, never the same again.
            now: the wall clock, aware UTC.

        Raises ValueError or TypeError for combinations that cannot work.
        """
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
        """How many outcomes could not be reported so far. Each was logged by `authz_sidecar.client`."""
        return self._reporter.unreported

    async def start_task(
        self,
        purpose: str,
        *,
        initiator: Initiator,
        tools: Sequence[str],
        resources: Sequence[str],
        ceiling: str,
        objective: str = "",
        ttl: timedelta | None = None,
        traceparent: str | None = None,
    ) -> AsyncTask:
        """Start a task: the scope under which tools can be called.

        Args:
            purpose: 1 to 200 characters, stored in the clear: no personal data.
            initiator: who wants it done.
            tools: "server/name", at least one.
            resources: patterns in which `*` matches any run of characters, at least one.
            ceiling: highest data class that the task may touch.
            objective: full text, at most 4096 characters; only a commitment to it is in the record.
            ttl: how long; by default what the sidecar is configured for.
            traceparent: overrides the client's callable.

        Raises TaskRefused, RequestRejected, SidecarUnavailable.
        """
        request = start_request(
            request_id=self._new_request_id(),
            purpose=purpose,
            objective=objective,
            initiator=initiator,
            tools=tools,
            resources=resources,
            ceiling=ceiling,
            ttl=ttl,
            traceparent=self.trace(traceparent),
        )
        return AsyncTask(self, read_started(await self._transport.call(lambda c: c.tasks.StartTask, request)))

    async def get_task(self, task_id: str) -> AsyncTask:
        """A task that was started before. Raises RequestRejected (`TASK_NOT_FOUND`) and SidecarUnavailable."""
        return AsyncTask(self, await self.describe(task_id))

    async def describe(self, task_id: str) -> TaskInfo:
        """What the sidecar knows about a task now. Raises like `get_task`."""
        response = await self._transport.call(lambda c: c.tasks.GetTask, task_pb2.GetTaskRequest(task_id=task_id))
        if response.task.task_id != task_id:
            raise invalid_answer("another task than the one asked for")
        return read_task(response.task)

    async def complete(self, task_id: str, summary: str) -> TaskInfo:
        """See AsyncTask.complete."""
        request = task_pb2.CompleteTaskRequest(task_id=task_id, summary=summary)
        try:
            response = await self._transport.call(lambda c: c.tasks.CompleteTask, request)
        except RequestRejected as rejected:
            # The answer to a first attempt may have been lost: then it is complete, and asking again says so.
            if rejected.reason != "TASK_NOT_ACTIVE" or (info := await self.describe(task_id)).state != "completed":
                raise
            return info
        return read_task(response.task)

    def trace(self, traceparent: str | None) -> str:
        """The trace context to send: the one given, or the callable's, in the context of whoever calls this."""
        if traceparent is None and self._traceparent is not None:
            traceparent = self._traceparent()
        return traceparent or ""

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
            self._owe_nothing(response, invalid.reason, to=request.request_id)
            raise
        if not isinstance(decision, Permitted):
            self._owe_nothing(response, decision.reason_code, to=request.request_id)
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
        """The outcome that AsyncTask.report reports, in the trace of whoever calls this."""
        return Outcome(
            decision_id=permit.decision_id,
            status=status,
            result_sha256=result_sha256(result),
            arguments_sha256=encode_arguments(arguments).sha256 if arguments is not None else b"",
            detail=detail,
            traceparent=self.trace(None),
        )

    def report(self, outcome: Outcome) -> None:
        """Report in the background. Never raises for a report that cannot be delivered."""
        if self._closed:
            self._reporter.give_up(outcome, "the client is closed")
        else:
            self._reporter.submit(outcome)

    def give_up(self, outcome: Outcome, why: str) -> None:
        """Count and log an outcome that will not be reported."""
        self._reporter.give_up(outcome, why)

    async def close(self) -> None:
        """Deliver outstanding reports, for at most the timeout, then disconnect. Calls in progress fail."""
        if not self._closed:
            self._closed = True
            await self._reporter.flush(self._timeout_s)
            await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _send_outcome(
        self, request: authorization_pb2.ReportOutcomeRequest
    ) -> authorization_pb2.ReportOutcomeResponse:
        return await self._transport.call(lambda c: c.authorization.ReportOutcome, request)

    def _unclaimed(self, answer: Answer) -> None:
        self._owe_nothing(answer.response, "the caller had stopped waiting", to=answer.request_id)

    def _owe_nothing(self, response: authorization_pb2.AuthorizeResponse, detail: str, *, to: str) -> None:
        """A permit that nobody will act on still owes its outcome, unless it is about something else altogether."""
        if permits(response) and response.request_id == to:
            self.report(Outcome(decision_id=response.decision_id, status=OutcomeStatus.NOT_ATTEMPTED, detail=detail))


class AsyncTask:
    """A task of this agent. `info` is as of when this object was made."""

    def __init__(self, client: AsyncClient, info: TaskInfo) -> None:
        self._client = client
        self.info = info

    @property
    def id(self) -> str:
        return self.info.id

    async def authorize(
        self, server: str, tool: str, arguments: Mapping[str, object], **options: Unpack[CallOptions]
    ) -> Decision:
        """Ask about one tool call, for code that enforces the decision itself; others use `guard`.

        Only `Permitted` allows the call, and it owes a `report`. Raises RequestRejected and SidecarUnavailable.
        """
        return await self._client.decide(self._client.asked(self.id, (server, tool), arguments, options))

    def guard(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, object] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncGuard:
        """Guard one call, by `async with`, or every call of an async function, as its decorator.

        Entering raises ToolDenied, ApprovalPending, RequestRejected or SidecarUnavailable, and then the body does not
        run. As a decorator it takes the arguments from the call, and passes the Grant to a parameter named `grant`.
        """

        async def open_call(arguments: Mapping[str, object]) -> GuardedCall:
            client = self._client
            request = client.asked(self.id, (server, tool), arguments, options)
            return GuardedCall(granted(await client.decide(request)), request, now=client.now, report=client.report)

        return AsyncGuard(open_call, arguments)

    def report(
        self,
        permit: Permitted,
        status: OutcomeStatus,
        *,
        arguments: Mapping[str, object] | None = None,
        result: object = None,
        detail: str = "",
    ) -> None:
        """Report, in the background, what happened to a call permitted by `authorize`.

        `arguments` are those really used, None when the tool was not called. Raises RequestRejected when they are not
        JSON.
        """
        self._client.report(self._client.outcome(permit, status, arguments=arguments, result=result, detail=detail))

    async def complete(self, summary: str = "") -> TaskInfo:
        """End the task: its tokens die. Completing it again is no error.

        Raises RequestRejected when it ended otherwise, and SidecarUnavailable.
        """
        self.info = await self._client.complete(self.id, summary)
        return self.info
