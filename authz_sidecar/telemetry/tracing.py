"""Traces: where a call came from, and what the sidecar spent its time on.

`TraceContext` is the caller's word, read strictly and stored with the record; nothing is decided by it. Spans exist
only when an exporter is configured; without one no OpenTelemetry code runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from authz_sidecar.errors import OperatorError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

# W3C Trace Context, section 3.2: version, trace-id, parent-id, trace-flags, all lower-case hex.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_MAX_LENGTH = 512
_SAMPLED = 0x01


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A position in a trace.

    Attributes:
        trace_id: 32 lower-case hex digits, not all zero.
        span_id: 16 lower-case hex digits, not all zero.
        flags: only the sampled bit is kept; the others are reserved and must be sent as zero.
    """

    trace_id: str
    span_id: str
    flags: int

    @classmethod
    def parse(cls, traceparent: str) -> TraceContext | None:
        """Read a `traceparent`. None when it is malformed: the caller's trace is then restarted, never guessed at.

        A version later than 00 is read as far as 00 goes, and may have more behind a `-` (section 4.2).
        """
        if len(traceparent) > _MAX_LENGTH:
            return None
        found = _TRACEPARENT.fullmatch(traceparent)
        if found is None:
            return None
        version, trace_id, span_id, flags, more = found.groups()
        if version == "ff" or (version == "00" and more is not None):
            return None
        if not trace_id.strip("0") or not span_id.strip("0"):
            return None
        return cls(trace_id, span_id, int(flags, 16) & _SAMPLED)

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


@dataclass(frozen=True, slots=True)
class Tracing:
    """Makes spans when there is somewhere to send them. `Tracing()` makes none."""

    _tracer: Tracer | None = None
    _provider: TracerProvider | None = None

    @property
    def enabled(self) -> bool:
        return self._tracer is not None

    def span(
        self, name: str, *, parent: TraceContext | None, attributes: Mapping[str, str] | None = None
    ) -> AbstractContextManager[TraceContext | None]:
        """A span around a block; yields its own position for whoever is called from within, None when disabled.

        An exception that leaves the block marks the span as failed by the exception's type, without its text.
        """
        if self._tracer is None:
            return nullcontext(parent)
        return _span(self._tracer, name, parent, attributes or {})

    def close(self) -> None:
        """Send what is waiting; blocks for at most the exporter's time-out."""
        if self._provider is not None:
            self._provider.shutdown()


def open_tracing(endpoint: str | None, *, service: str, version: str, timeout: float = 5.0) -> Tracing:
    """Tracing to an OTLP gRPC receiver.

    Args:
        endpoint: `http://host:port` in clear text, or `https://host:port`; None for no tracing.
        service: `service.name` of all spans.
        version: `service.version` of all spans.
        timeout: seconds that one export may take.

    Raises:
        OperatorError: the exporter's packages are not installed.
    """
    if endpoint is None:
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise OperatorError(
            "`telemetry.otlp_endpoint` is set, but the exporter is not installed: install authz-sidecar[otel]"
        ) from None
    provider = TracerProvider(resource=Resource({"service.name": service, "service.version": version}))
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=urlsplit(endpoint).scheme == "http", timeout=timeout)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider.get_tracer(service, version), provider)


@contextmanager
def _span(
    tracer: Tracer, name: str, parent: TraceContext | None, attributes: Mapping[str, str]
) -> Iterator[TraceContext | None]:
    from opentelemetry import trace
    from opentelemetry.trace import SpanKind, Status, StatusCode

    context = trace.set_span_in_context(_remote(parent)) if parent is not None else None
    span = tracer.start_span(name, context=context, kind=SpanKind.SERVER, attributes=dict(attributes))
    try:
        yield _position(span)
    except BaseException as error:
        span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        span.end()


def _remote(parent: TraceContext) -> Span:
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

    flags = TraceFlags(parent.flags)
    return NonRecordingSpan(
        SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
    )


def _position(span: Span) -> TraceContext:
    context = span.get_span_context()
    return TraceContext(f"{context.trace_id:032x}", f"{context.span_id:016x}", int(context.trace_flags) & _SAMPLED)
