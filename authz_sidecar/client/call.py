"""One tool call: what is asked, and what follows from a permit until its outcome is reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict, TypeVar, assert_never

from authz_sidecar.client.arguments import Encoded, encode_arguments, result_sha256
from authz_sidecar.client.decision import ApprovalRequired, Decision, Denied, Permitted
from authz_sidecar.client.errors import (
    ApprovalPending,
    RequestRejected,
    SidecarUnavailable,
    ToolDenied,
    Violation,
)
from authz_sidecar.client.outcomes import Outcome, OutcomeStatus
from authz_sidecar.v1 import authorization_pb2

T = TypeVar("T")


class CallOptions(TypedDict, total=False):
    """What may be said about a call beside its tool and arguments. All are optional."""

    resource: str
    """Declared resource; used only where the catalog says so, elsewhere it must equal the derived one."""
    audience: str
    """Audience of the token; by default the catalog's."""
    justification: str
    """Why the agent wants to make the call, at most 1024 characters; kept with the record, never evaluated."""
    tool_call_id: str
    """The model's identifier of the call."""
    traceparent: str
    """W3C Trace Context; by default what the client's `traceparent` callable returns."""
    digest_only: bool
    """Send only the digest of the arguments, for tools whose catalog entry says that arguments stay with the agent."""


def check_options(options: CallOptions) -> None:
    """Raises TypeError for an option that does not exist, which Python itself lets through."""
    unknown = sorted(set(options) - set(CallOptions.__annotations__))
    if unknown:
        raise TypeError(f"no such option of a call: {', '.join(unknown)}")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as sent, with the arguments that it is about."""

    request: authorization_pb2.AuthorizeRequest
    arguments: Mapping[str, object]
    encoded: Encoded


def asked(
    *,
    request_id: str,
    task_id: str,
    tool: tuple[str, str],
    arguments: Mapping[str, object],
    options: CallOptions,
    proof_key_thumbprint: str,
) -> Asked:
    """Build the request. Raises RequestRejected for arguments that are not JSON, or that lack a needed digest."""
    encoded = encode_arguments(arguments)
    request = authorization_pb2.AuthorizeRequest(
        request_id=request_id,
        task_id=task_id,
        tool_server=tool[0],
        tool_name=tool[1],
        resource=options.get("resource", ""),
        audience=options.get("audience", ""),
        justification=options.get("justification", ""),
        tool_call_id=options.get("tool_call_id", ""),
        traceparent=options.get("traceparent", ""),
        proof_key_thumbprint=proof_key_thumbprint,
    )
    if not options.get("digest_only", False):
        request.arguments_json = encoded.json
    elif encoded.sha256:
        request.arguments_sha256 = encoded.sha256
    else:
        problem = "no digest can be computed for floats and for member names beyond ASCII; pass them as strings"
        raise RequestRejected(
            "INVALID_REQUEST", f"`arguments_sha256`: {problem}", (Violation("arguments_sha256", problem),)
        )
    return Asked(request, arguments, encoded)


class Grant:
    """What the body of a guarded call gets: the token for this one call."""

    def __init__(self, decision: Permitted) -> None:
        self.decision = decision
        self._result_sha256: bytes | None = None

    @property
    def token(self) -> str:
        """The compact JWS to present to the tool server. Never log it."""
        return self.decision.token

    @property
    def expires_at(self) -> datetime:
        """When the token stops being valid, aware UTC."""
        return self.decision.expires_at

    def result(self, value: T) -> T:
        """Put the digest of the tool's result into the outcome, and return the value. The last one given counts."""
        self._result_sha256 = result_sha256(value)
        return value

    @property
    def result_digest(self) -> bytes | None:
        """Digest of the result; empty when it has none, None when no result was given."""
        return self._result_sha256


class GuardedCall:
    """A permitted call from its permit to its outcome, which is reported exactly once."""

    def __init__(
        self, permit: Permitted, asked: Asked, *, now: Callable[[], datetime], report: Callable[[Outcome], None]
    ) -> None:
        self._permit = permit
        self._asked = asked
        self._now = now
        self._report = report
        self._settled = False
        self.grant = Grant(permit)

    def begin(self) -> Grant:
        """The last check before the tool runs. Raises, and reports "not attempted", when it must not run after all."""
        problem = self._obstacle()
        if problem is not None:
            self.abandon(problem.reason)
            raise problem
        return self.grant

    def end(self, error: BaseException | None) -> None:
        """Report how the body ended."""
        if error is None:
            status, detail = OutcomeStatus.SUCCESS, ""
        else:
            # The message of a tool's exception may hold anything; the record gets its type.
            status, detail = _status(error), type(error).__name__
        self._settle(
            status,
            detail,
            result=(self.grant.result_digest or b"") if error is None else b"",
            arguments=self._asked.encoded.sha256,
        )

    def abandon(self, detail: str) -> None:
        """Report that the tool was not called."""
        self._settle(OutcomeStatus.NOT_ATTEMPTED, detail)

    def _obstacle(self) -> SidecarUnavailable | RequestRejected | None:
        if self._now() >= self._permit.expires_at:
            return SidecarUnavailable("TOKEN_EXPIRED", "the token expired before the tool was called; ask again")
        changed = RequestRejected("ARGUMENTS_CHANGED", "the arguments changed while they were being authorized")
        try:
            same = encode_arguments(self._asked.arguments).json == self._asked.encoded.json
        except (RequestRejected, RuntimeError):
            return changed
        return None if same else changed

    def _settle(self, status: OutcomeStatus, detail: str, *, result: bytes = b"", arguments: bytes = b"") -> None:
        if self._settled:
            return
        self._settled = True
        self._report(
            Outcome(
                decision_id=self._permit.decision_id,
                status=status,
                result_sha256=result,
                arguments_sha256=arguments,
                detail=detail,
                traceparent=self._asked.request.traceparent,
            )
        )


def granted(decision: Decision) -> Permitted:
    """The permit. Raises ToolDenied and ApprovalPending for the other decisions."""
    match decision:
        case Permitted():
            return decision
        case Denied():
            raise ToolDenied(decision)
        case ApprovalRequired():
            raise ApprovalPending(decision)
        case _:
            assert_never(decision)


def _status(error: BaseException) -> OutcomeStatus:
    """A body that was interrupted, rather than failed, may still be at work on the tool's side."""
    if isinstance(error, TimeoutError | asyncio.CancelledError) or not isinstance(error, Exception):
        return OutcomeStatus.TIMEOUT
    return OutcomeStatus.FAILURE
