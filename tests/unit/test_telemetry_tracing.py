from __future__ import annotations

import asyncio
from concurrent import futures
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from authz_sidecar.telemetry.tracing import TraceContext, Tracing, open_tracing

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = TraceContext(TRACE, SPAN, 1)


@pytest.mark.parametrize(
    ("traceparent", "expected"),
    [
        (f"00-{TRACE}-{SPAN}-01", PARENT),
        (f"00-{TRACE}-{SPAN}-00", TraceContext(TRACE, SPAN, 0)),
        # Reserved flags are dropped; only the sampled bit has a meaning.
        (f"00-{TRACE}-{SPAN}-ff", PARENT),
        # W3C Trace Context 4.2: a later version is read as far as this one goes.
        (f"cc-{TRACE}-{SPAN}-01", PARENT),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", PARENT),
        (f"cc-{TRACE}-{SPAN}-01.what", None),
        (f"00-{TRACE}-{SPAN}-01-what", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-1", None),
        (f"00-{TRACE}-{SPAN}", None),
        (f"0-{TRACE}-{SPAN}-01", None),
        (f"00-{TRACE[:-1]}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}-01\n", None),
        (f" 00-{TRACE}-{SPAN}-01", None),
        (f"00-{TRACE[:-1]}٣-{SPAN}-01", None),
        (f"cc-{TRACE}-{SPAN}-01-{'x' * 512}", None),
        ("", None),
    ],
)
def test_traceparent_is_read_strictly_or_not_at_all(traceparent: str, expected: TraceContext | None) -> None:
    assert TraceContext.parse(traceparent) == expected


@given(
    st.builds(
        TraceContext,
        st.integers(1, 2**128 - 1).map("{:032x}".format),
        st.integers(1, 2**64 - 1).map("{:016x}".format),
        st.sampled_from([0, 1]),
    )
)
def test_what_is_written_reads_back(context: TraceContext) -> None:
    assert TraceContext.parse(str(context)) == context


@given(st.text(max_size=80))
def test_no_text_breaks_the_parser(text: str) -> None:
    assert TraceContext.parse(text) is None or text[2] == "-"


def test_without_an_exporter_a_span_passes_the_caller_on() -> None:
    tracing = open_tracing(None, service="s", version="1")
    assert tracing == Tracing()
    assert not tracing.enabled
    with tracing.span("x", parent=PARENT) as position:
        assert position == PARENT
    tracing.close()


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.requests: list[Any] = []

    def Export(self, request: Any, context: object) -> Any:
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


async def test_spans_reach_the_receiver_below_the_callers_span() -> None:
    receiver = Receiver()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    tracing = open_tracing(f"http://127.0.0.1:{port}", service="authz-sidecar", version="1.2.3")
    try:
        with (
            pytest.raises(LookupError),
            tracing.span("Authorize", parent=PARENT, attributes={"outcome": "deny"}) as position,
        ):
            raise LookupError("a secret text")
        with tracing.span("root", parent=None):
            pass
        await asyncio.to_thread(tracing.close)
    finally:
        server.stop(None).wait()

    child, root = sorted(receiver.spans(), key=lambda span: span.name)
    assert position is not None
    assert (child.trace_id.hex(), child.parent_span_id.hex(), child.span_id.hex()) == (TRACE, SPAN, position.span_id)
    assert [(item.key, item.value.string_value) for item in child.attributes] == [("outcome", "deny")]
    assert child.status.message == "LookupError"
    assert root.trace_id.hex() != TRACE
    assert not root.parent_span_id
    resource = {
        item.key: item.value.string_value for item in receiver.requests[0].resource_spans[0].resource.attributes
    }
    assert resource["service.version"] == "1.2.3"
    assert b"a secret text" not in receiver.requests[0].SerializeToString()
