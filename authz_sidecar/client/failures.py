"""From what gRPC says to what the caller gets: gone wrong for now, rejected for good, or no answer."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from google.protobuf.message import DecodeError

from authz_sidecar.client.errors import RequestRejected, SidecarUnavailable, Violation
from authz_sidecar.v1 import common_pb2

ERROR_TRAILER = "authz-error-bin"

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

# The caller's fault: the same request gets the same answer.
REJECTIONS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


class Lost(Exception):
    """No answer was received and one may still come: the same request is sent again. Never leaves this package."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


Failure = Lost | RequestRejected | SidecarUnavailable


def from_message(error: common_pb2.Error) -> Failure:
    """The answer to one request of a stream."""
    code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    violations = [Violation(each.field, each.description) for each in error.field_violations]
    return _failure(code, error.reason, error.message, violations)


def from_status(error: grpc.aio.AioRpcError) -> Failure:
    """The end of a call that did not go well. The sidecar's own error counts before gRPC's words."""
    told = _told(error)
    if told is not None:
        return from_message(told)
    return _failure(error.code(), "", error.details() or "no details", ())


def again(failure: Failure) -> Failure:
    """A copy to raise: one exception object raised to many callers would collect all their tracebacks."""
    if isinstance(failure, RequestRejected):
        return RequestRejected(failure.reason, failure.message, failure.violations)
    return type(failure)(failure.reason, failure.message)


def invalid_answer(problem: str) -> SidecarUnavailable:
    """The sidecar answered something that no sidecar of this contract answers."""
    return SidecarUnavailable("INVALID_ANSWER", f"{problem}; client and sidecar may be of different versions")


def _failure(code: grpc.StatusCode, reason: str, message: str, violations: Sequence[Violation]) -> Failure:
    reason = reason or code.name
    if code is _UNAVAILABLE:
        return Lost(reason, message)
    if code in REJECTIONS:
        return RequestRejected(reason, message, violations)
    return SidecarUnavailable(reason, message)


def _told(error: grpc.aio.AioRpcError) -> common_pb2.Error | None:
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_TRAILER and isinstance(value, bytes):
            try:
                told = common_pb2.Error.FromString(value)
            except DecodeError:
                return None
            # A trailer that contradicts the status is not believed: it must not turn a failure into something milder.
            return told if told.code == error.code().value[0] else None
    return None
