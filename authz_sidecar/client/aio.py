"""The client for asyncio."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self, Unpack

from authz_sidecar.client.call import CallOptions, GuardedCall, check_options, granted
from authz_sidecar.client.credentials import SvidFiles
from authz_sidecar.client.decision import Decision, Permitted
from authz_sidecar.client.guard import AsyncGuard
from authz_sidecar.client.outcomes import OutcomeStatus
from authz_sidecar.client.session import Session
from authz_sidecar.client.tasks import Initiator, NewTask, TaskInfo
from authz_sidecar.clock import system_now

DEFAULT_TIMEOUT = timedelta(seconds=5)
DEFAULT_SERVER_NAME = "authz-sidecar"


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
        self._session = Session(
            target,
            svid=svid,
            jwt_svid=jwt_svid,
            proof_key_thumbprint=proof_key_thumbprint,
            server_name=server_name,
            timeout=timeout,
            traceparent=traceparent,
            new_request_id=new_request_id,
            now=now,
        )

    @property
    def unreported_outcomes(self) -> int:
        """How many outcomes could not be reported so far. Each was logged by `authz_sidecar.client`."""
        return self._session.unreported_outcomes

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
        new = NewTask(
            purpose=purpose,
            initiator=initiator,
            tools=tools,
            resources=resources,
            ceiling=ceiling,
            objective=objective,
            ttl=ttl,
            traceparent=self._session.trace(traceparent),
        )
        return AsyncTask(self._session, await self._session.start_task(new))

    async def get_task(self, task_id: str) -> AsyncTask:
        """A task that was started before. Raises RequestRejected (`TASK_NOT_FOUND`) and SidecarUnavailable."""
        return AsyncTask(self._session, await self._session.get_task(task_id))

    async def close(self) -> None:
        """Deliver outstanding reports, for at most the timeout, then disconnect. Calls in progress fail."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        await self.close()


class AsyncTask:
    """A task of this agent, made by AsyncClient. `info` is as of when this object was made."""

    def __init__(self, session: Session, info: TaskInfo) -> None:
        self._session = session
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
        check_options(options)
        return await self._session.decide(self._session.asked(self.id, (server, tool), arguments, options))

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
        session = self._session
        check_options(options)

        async def open_call(arguments: Mapping[str, object]) -> GuardedCall:
            request = session.asked(self.id, (server, tool), arguments, options)
            permit = granted(await session.decide(request))
            return GuardedCall(permit, request, now=session.now, report=session.report)

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
        self._session.report(self._session.outcome(permit, status, arguments=arguments, result=result, detail=detail))

    async def complete(self, summary: str = "") -> TaskInfo:
        """End the task: its tokens die. Completing it again is no error.

        Raises RequestRejected when it ended otherwise, and SidecarUnavailable.
        """
        self.info = await self._session.complete_task(self.id, summary)
        return self.info
