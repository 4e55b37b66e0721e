"""What happens around every RPC: admission, size, parsing, identity, role, errors. Handlers see none of it.

Requests arrive as bytes and are parsed here, so that a request that is too large or not protobuf gets a clear answer
instead of gRPC's INTERNAL.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NoReturn, Protocol

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from authz_sidecar.errors import InvalidRequest, Overloaded, SidecarError, Unimplemented
from authz_sidecar.identity.subject import Subject
from authz_sidecar.server import status
from authz_sidecar.server.access import TABLE, Roles, Rule
from authz_sidecar.server.identify import Context, Identify
from authz_sidecar.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)

# The messages of a handler are those of its row in the service descriptor; `Any` because the row is chosen by name.
UnaryHandler = Callable[[Subject, Any], Awaitable[Message]]
ServerStreamHandler = Callable[[Subject, Any], AsyncIterator[Message]]


class BidiHandler(Protocol):
    """A handler that owns its stream: it identifies and parses each message with what it is given."""

    async def __call__(self, guard: Guard, method: Method, context: Context) -> None: ...


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the contract."""

    name: str
    rule: Rule
    request_type: type[Message]

    def parse(self, raw: bytes) -> Message:
        """Raises InvalidRequest when the bytes are too many or no message of this kind."""
        if len(raw) > self.rule.max_request_bytes:
            raise InvalidRequest.of(
                "(request)", f"expected at most {self.rule.max_request_bytes} bytes, got {len(raw)}"
            )
        try:
            return self.request_type.FromString(raw)
        except DecodeError:
            raise InvalidRequest.of(
                "(request)", f"not a valid {self.request_type.DESCRIPTOR.full_name} (strings must be UTF-8)"
            ) from None


class Admission:
    """Load shedding: a bound on decisions and calls in progress, streams' messages included."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.in_flight = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Raises Overloaded when every slot is taken."""
        if self.in_flight >= self._limit:
            raise Overloaded(f"{self._limit} calls are in progress; back off and try again")
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


@dataclass(frozen=True, slots=True)
class Guard:
    """What stands before every handler."""

    identify: Identify
    roles: Roles
    admission: Admission
    metrics: Metrics

    def failed(self, method: Method, error: Exception) -> SidecarError:
        """Count and log an error, and return what the caller may be told."""
        shown = status.presentable(error)
        self.metrics.count_rpc_error(method.name, shown.reason)
        if shown is error:
            _log.info("rpc refused", method=method.name, reason=shown.reason, message=shown.message)
        else:
            _log.error("rpc failed", method=method.name, exc_info=error)
        return shown

    async def abort(self, method: Method, context: Context, error: Exception) -> NoReturn:
        await status.abort(context, self.failed(method, error))


def handlers(
    services: Iterable[ServiceDescriptor],
    guard: Guard,
    *,
    unary: Mapping[str, UnaryHandler],
    server_stream: Mapping[str, ServerStreamHandler],
    watch: Mapping[str, ServerStreamHandler],
    bidi: Mapping[str, BidiHandler],
) -> list[grpc.GenericRpcHandler]:
    """One generic handler per service, covering every method of its descriptor.

    A `watch` is a stream that stays open for as long as its caller likes: it takes no admission slot, which is for
    work, and bounds its watchers itself.

    Raises KeyError when a method is missing from the closed table: such a server must not start.
    """
    result = []
    for service in services:
        by_name: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
        for descriptor in service.methods:
            method = _method(service, descriptor)
            if method.name in unary:
                by_name[descriptor.name] = _unary(method, guard, unary[method.name])
            elif method.name in server_stream:
                by_name[descriptor.name] = _server_stream(method, guard, server_stream[method.name])
            elif method.name in watch:
                by_name[descriptor.name] = _server_stream(method, guard, watch[method.name], admitted=False)
            elif method.name in bidi:
                by_name[descriptor.name] = _bidi(method, guard, bidi[method.name])
            else:
                by_name[descriptor.name] = _unimplemented(method, guard, descriptor)
        result.append(grpc.method_handlers_generic_handler(service.full_name, by_name))
    return result


def _method(service: ServiceDescriptor, descriptor: MethodDescriptor) -> Method:
    name = f"{service.name}/{descriptor.name}"
    return Method(name, TABLE[name], GetMessageClass(descriptor.input_type))


def _unary(method: Method, guard: Guard, handler: UnaryHandler) -> grpc.RpcMethodHandler[bytes, bytes]:
    async def serve(raw: bytes, context: Context) -> bytes:
        started = perf_counter()
        try:
            with guard.admission.slot():
                subject = guard.identify.caller(context)()
                guard.roles.require(method.name, method.rule, subject)
                response = await handler(subject, method.parse(raw))
                return response.SerializeToString()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # the last line of defence: whatever happened, no answer and no token
            await guard.abort(method, context, error)
        finally:
            guard.metrics.observe_rpc(method.name, started)

    return grpc.unary_unary_rpc_method_handler(serve)


def _server_stream(
    method: Method, guard: Guard, handler: ServerStreamHandler, *, admitted: bool = True
) -> grpc.RpcMethodHandler[bytes, bytes]:
    async def serve(raw: bytes, context: Context) -> None:
        try:
            with guard.admission.slot() if admitted else nullcontext():
                caller = guard.identify.caller(context)
                guard.roles.require(method.name, method.rule, caller())
                async for response in handler(caller(), method.parse(raw)):
                    caller()
                    await context.write(response.SerializeToString())
        except asyncio.CancelledError:
            raise
        except Exception as error:
            await guard.abort(method, context, error)

    return grpc.unary_stream_rpc_method_handler(serve)


def _bidi(method: Method, guard: Guard, handler: BidiHandler) -> grpc.RpcMethodHandler[bytes, bytes]:
    async def serve(_requests: AsyncIterator[bytes], context: Context) -> None:
        try:
            await handler(guard, method, context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:
            await guard.abort(method, context, error)

    return grpc.stream_stream_rpc_method_handler(serve)


def _unimplemented(method: Method, guard: Guard, descriptor: MethodDescriptor) -> grpc.RpcMethodHandler[bytes, bytes]:
    error = Unimplemented(f"`{method.name}` is part of the contract but this version does not implement it")

    async def refuse(_request: bytes, context: Context) -> bytes:
        await guard.abort(method, context, error)

    if descriptor.server_streaming:

        async def refuse_stream(_request: bytes, context: Context) -> None:
            await guard.abort(method, context, error)

        return grpc.unary_stream_rpc_method_handler(refuse_stream)
    return grpc.unary_unary_rpc_method_handler(refuse)
