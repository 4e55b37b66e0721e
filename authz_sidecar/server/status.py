"""The one table from our errors to what a gRPC caller sees. What is not in it becomes INTERNAL with a fixed text."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from authz_sidecar import errors
from authz_sidecar.v1 import common_pb2

# Beside the standard details, so that a client needs no googleapis types to read the reason.
ERROR_TRAILER = "authz-error-bin"
_DETAILS_TRAILER = "grpc-status-details-bin"
_DOMAIN = "authz-sidecar"

# gRPC drops a call whose trailers exceed 8 KiB, and the error is in there twice, as base64.
_MESSAGE_BYTES = 512
_DESCRIPTION_BYTES = 160
_MOST_VIOLATIONS = 8

STATUS: Mapping[type[errors.SidecarError], grpc.StatusCode] = MappingProxyType(
    {
        errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
        errors.TaskNotFound: grpc.StatusCode.NOT_FOUND,
        errors.RecordNotFound: grpc.StatusCode.NOT_FOUND,
        errors.RequestIdReused: grpc.StatusCode.ALREADY_EXISTS,
        errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
        errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
        errors.RoleRequired: grpc.StatusCode.PERMISSION_DENIED,
        errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
        errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
        errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
        errors.Unimplemented: grpc.StatusCode.UNIMPLEMENTED,
    }
)

_INTERNAL = errors.SidecarError("internal error; the sidecar's log has the cause")


def status_of(error: errors.SidecarError) -> grpc.StatusCode:
    """The status of the nearest class in the table. Operator and integrity errors are nobody's answer: INTERNAL."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return grpc.StatusCode.INTERNAL


def presentable(error: Exception) -> errors.SidecarError:
    """What a caller may be told: our own errors as they are, anything else as a fixed text."""
    if isinstance(error, errors.SidecarError) and status_of(error) is not grpc.StatusCode.INTERNAL:
        return error
    return _INTERNAL


def to_message(error: errors.SidecarError) -> common_pb2.Error:
    """The error as the answer to one request on a stream, or as a trailer."""
    return common_pb2.Error(
        code=status_of(error).value[0],
        reason=error.reason,
        message=_cut(error.message, _MESSAGE_BYTES),
        field_violations=[
            common_pb2.FieldViolation(field=violation.field, description=violation.description)
            for violation in _violations(error)
        ],
        metadata=dict(error.metadata),
    )


def to_rpc_status(error: errors.SidecarError) -> status_pb2.Status:
    """The error as google.rpc.Status with ErrorInfo and, for malformed requests, BadRequest."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=_DOMAIN, metadata=dict(error.metadata))
    details = [_packed(info)]
    if isinstance(error, errors.InvalidRequest):
        details.append(
            _packed(
                error_details_pb2.BadRequest(
                    field_violations=[
                        error_details_pb2.BadRequest.FieldViolation(
                            field=violation.field, description=violation.description
                        )
                        for violation in _violations(error)
                    ]
                )
            )
        )
    message = _cut(error.message, _MESSAGE_BYTES)
    return status_pb2.Status(code=status_of(error).value[0], message=message, details=details)


async def abort(context: grpc.aio.ServicerContext[bytes, bytes], error: errors.SidecarError) -> NoReturn:
    """End the call with the error's status, its standard details and our own trailer."""
    trailers = (
        (_DETAILS_TRAILER, to_rpc_status(error).SerializeToString()),
        (ERROR_TRAILER, to_message(error).SerializeToString()),
    )
    await context.abort(status_of(error), _cut(error.message, _MESSAGE_BYTES), trailers)
    raise AssertionError("abort always raises")


def _violations(error: errors.SidecarError) -> list[errors.Violation]:
    """The first violations, each cut to its limit: after those are corrected, the rest is told."""
    violations = error.violations if isinstance(error, errors.InvalidRequest) else ()
    return [
        errors.Violation(violation.field, _cut(violation.description, _DESCRIPTION_BYTES))
        for violation in violations[:_MOST_VIOLATIONS]
    ]


def _cut(text: str, most_bytes: int) -> str:
    raw = text.encode("utf-8", "replace")
    return text if len(raw) <= most_bytes else raw[: most_bytes - 3].decode("utf-8", "ignore") + "\u2026"


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
