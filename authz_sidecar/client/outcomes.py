"""Reports what happened to permitted calls, in the background: a lost report never costs the agent its result."""

from __future__ import annotations

import asyncio
import enum
import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from authz_sidecar.client.errors import AuthzError, SidecarUnavailable
from authz_sidecar.v1 import authorization_pb2

_LOG = logging.getLogger("authz_sidecar.client")

_MOST_QUEUED = 4096
_MOST_AT_ONCE = 16
_ATTEMPTS = 4
_FIRST_DELAY_S = 0.25
_LONGEST_DETAIL = 512


class OutcomeStatus(enum.Enum):
    """How a permitted call ended."""

    SUCCESS = authorization_pb2.EXECUTION_STATUS_SUCCESS
    FAILURE = authorization_pb2.EXECUTION_STATUS_FAILURE
    TIMEOUT = authorization_pb2.EXECUTION_STATUS_TIMEOUT
    """The agent stopped waiting; what the tool did is unknown."""
    NOT_ATTEMPTED = authorization_pb2.EXECUTION_STATUS_NOT_ATTEMPTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A report. Digests are 32 bytes or empty; `detail` is cut to 512 characters."""

    decision_id: str
    status: OutcomeStatus
    result_sha256: bytes = b""
    arguments_sha256: bytes = b""
    detail: str = ""
    traceparent: str = ""


Send = Callable[[authorization_pb2.ReportOutcomeRequest], Awaitable[authorization_pb2.ReportOutcomeResponse]]


class OutcomeReporter:
    """Sends reports, each up to four times. What could not be delivered is logged and counted."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._slots = asyncio.Semaphore(_MOST_AT_ONCE)
        self._underway: set[asyncio.Task[None]] = set()
        self._counting = threading.Lock()
        self.unreported = 0

    def submit(self, outcome: Outcome) -> None:
        """Queue a report on the running event loop. Never raises for a report that cannot be sent."""
        if len(self._underway) >= _MOST_QUEUED:
            self.give_up(outcome, f"{_MOST_QUEUED} reports are waiting already")
            return
        task = asyncio.get_running_loop().create_task(self._deliver(outcome))
        self._underway.add(task)
        task.add_done_callback(self._underway.discard)

    def give_up(self, outcome: Outcome, why: str) -> None:
        """Count and log a report that will not be sent. May be called on any thread."""
        with self._counting:
            self.unreported += 1
        _LOG.error(
            "outcome not reported: decision `%s` ended with %s: %s", outcome.decision_id, outcome.status.name, why
        )

    async def flush(self, timeout_s: float) -> None:
        """Wait for all reports; those that take longer than `timeout_s` are given up."""
        if not self._underway:
            return
        _, late = await asyncio.wait(self._underway, timeout=timeout_s)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def _deliver(self, outcome: Outcome) -> None:
        try:
            async with self._slots:
                response = await self._send_patiently(_request(outcome))
        except asyncio.CancelledError:
            self.give_up(outcome, "the client was closed first")
            raise
        except Exception as error:
            self.give_up(outcome, str(error) if isinstance(error, AuthzError) else type(error).__name__)
        else:
            if response.contradictions:
                _LOG.warning(
                    "outcome of decision `%s` contradicts the record: %s",
                    outcome.decision_id,
                    ", ".join(response.contradictions),
                )

    async def _send_patiently(
        self, request: authorization_pb2.ReportOutcomeRequest
    ) -> authorization_pb2.ReportOutcomeResponse:
        delay = _FIRST_DELAY_S
        for _ in range(_ATTEMPTS - 1):
            try:
                return await self._send(request)
            except SidecarUnavailable:
                await asyncio.sleep(delay)
                delay *= 2
        return await self._send(request)


def _request(outcome: Outcome) -> authorization_pb2.ReportOutcomeRequest:
    return authorization_pb2.ReportOutcomeRequest(
        decision_id=outcome.decision_id,
        status=outcome.status.value,
        result_sha256=outcome.result_sha256,
        arguments_sha256=outcome.arguments_sha256,
        detail=outcome.detail[:_LONGEST_DETAIL],
        traceparent=outcome.traceparent,
    )
