"""The client for code without an event loop: an event loop in a thread of its own, behind blocking calls."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Self, Unpack

from authz_sidecar.client.aio import DEFAULT_SERVER_NAME, DEFAULT_TIMEOUT, random_request_id
from authz_sidecar.client.call import Asked, CallOptions, GuardedCall, check_options, granted
from authz_sidecar.client.credentials import SvidFiles
from authz_sidecar.client.decision import Decision, Permitted
from authz_sidecar.client.errors import SidecarUnavailable
from authz_sidecar.client.guard import Guard
from authz_sidecar.client.loop_thread import LoopThread
from authz_sidecar.client.outcomes import Outcome, OutcomeStatus
from authz_sidecar.client.session import Session
from authz_sidecar.client.tasks import Initiator, NewTask, TaskInfo
from authz_sidecar.clock import system_now


class Client:
    """Asks the sidecar from any thread. Closed at the end of the program, so that outcomes are not lost.

    After a fork it raises SidecarUnavailable (`FORKED`) in the child, which has to make its own. Programs that fork
    while a client is connected should set `GRPC_ENABLE_FORK_SUPPORT=0`: gRPC's own handling of forks can crash the
    child.
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
        """Make a client and its thread. The parameters are those of AsyncClient.

        `jwt_svid` runs on the client's thread, `traceparent` on the caller's.
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
        self._thread = LoopThread()
        self._closed = False
        atexit.register(self.close)

    @property
    def unreported_outcomes(self) -> int:
        """How many outcomes could not be reported so far. Each was logged by `authz_sidecar.client`."""
        return self._session.unreported_outcomes

    def start_task(
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
    ) -> Task:
        """See AsyncClient.start_task."""
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
        return Task(self._session, self._thread, self._thread.run(partial(self._session.start_task, new)))

    def get_task(self, task_id: str) -> Task:
        """See AsyncClient.get_task."""
        return Task(self._session, self._thread, self._thread.run(partial(self._session.get_task, task_id)))

    def close(self) -> None:
        """Deliver outstanding reports, for at most the timeout, then disconnect. Does nothing in a forked child."""
        if self._closed or self._thread.forked:
            return
        self._closed = True
        atexit.unregister(self.close)
        try:
            self._thread.run(self._session.close)
        finally:
            self._thread.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()


class Task:
    """A task of this agent, made by Client. `info` is as of when this object was made."""

    def __init__(self, session: Session, thread: LoopThread, info: TaskInfo) -> None:
        self._session = session
        self._thread = thread
        self.info = info

    @property
    def id(self) -> str:
        return self.info.id

    def authorize(
        self, server: str, tool: str, arguments: Mapping[str, object], **options: Unpack[CallOptions]
    ) -> Decision:
        """See AsyncTask.authorize."""
        check_options(options)
        request = self._session.asked(self.id, (server, tool), arguments, options)
        return self._thread.run(partial(self._session.decide, request), unclaimed=self._unclaimed)

    def guard(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, object] | None = None,
        **options: Unpack[CallOptions],
    ) -> Guard:
        """Guard one call, by `with`, or every call of a function, async or not, as its decorator: AsyncTask.guard."""

        check_options(options)

        def ask(arguments: Mapping[str, object]) -> Asked:
            return self._session.asked(self.id, (server, tool), arguments, options)

        def guarded_call(request: Asked, decision: Decision) -> GuardedCall:
            return GuardedCall(granted(decision), request, now=self._session.now, report=self._report)

        def open_call(arguments: Mapping[str, object]) -> GuardedCall:
            request = ask(arguments)
            decide = partial(self._session.decide, request)
            return guarded_call(request, self._thread.run(decide, unclaimed=self._unclaimed))

        async def open_call_async(arguments: Mapping[str, object]) -> GuardedCall:
            request = ask(arguments)
            decide = partial(self._session.decide, request)
            return guarded_call(request, await self._thread.run_async(decide, unclaimed=self._unclaimed))

        return Guard(open_call, open_call_async, arguments)

    def report(
        self,
        permit: Permitted,
        status: OutcomeStatus,
        *,
        arguments: Mapping[str, object] | None = None,
        result: object = None,
        detail: str = "",
    ) -> None:
        """See AsyncTask.report."""
        self._report(self._session.outcome(permit, status, arguments=arguments, result=result, detail=detail))

    def complete(self, summary: str = "") -> TaskInfo:
        """See AsyncTask.complete."""
        self.info = self._thread.run(partial(self._session.complete_task, self.id, summary))
        return self.info

    def _unclaimed(self, decision: Decision) -> None:
        if isinstance(decision, Permitted):
            self._report(
                Outcome(
                    decision_id=decision.decision_id,
                    status=OutcomeStatus.NOT_ATTEMPTED,
                    detail="the caller had stopped waiting",
                )
            )

    def _report(self, outcome: Outcome) -> None:
        try:
            self._thread.call_soon(partial(self._session.report, outcome))
        except SidecarUnavailable as problem:
            self._session.give_up(outcome, problem.message)
