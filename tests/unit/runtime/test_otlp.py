"""OTLP that is received, and what is sent, are the same spans."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as PbSpan
from opentelemetry.sdk.trace import Event as SdkEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from services.core.tracing import Attributes, Event, Kind, Span, TraceContext
from services.runtime.telemetry.encoding import encode
from services.runtime.telemetry.otlp import LARGEST, LONGEST, MOST, spans_of
from tests.testing.exports import span

RESOURCE = {"weft.endpoint": "clusters/a/endpoints/b", "weft.instance": "i"}


def request(*spans: PbSpan) -> bytes:
    scope = ScopeSpans(spans=spans)
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[scope])]).SerializeToString()


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("error", ["", "worker_lost"])
def test_what_is_sent_is_read_as_it_was(kind: Kind, error: str) -> None:
    one = span(
        context=TraceContext.of("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True, "vendor=x"),
        parent_id="00f067aa0ba902b8",
        kind=kind,
        attributes={"text": "ä", "whole": -3, "part": 0.5, "yes": True, "several": ("a", "b")},
        events=(Event("gen_ai.first_token", 17, {"n": 1}),),
        error=error,
        resource=RESOURCE,
    )
    assert list(spans_of(encode([one]).SerializeToString(), "router", RESOURCE)) == [one]


def test_the_span_of_an_error_is_exported_although_its_trace_was_not_sampled() -> None:
    one = span(context=TraceContext.of("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", False))
    (read,) = spans_of(encode([one]).SerializeToString(), "router", {})
    assert (read.context.trace_id, read.context.span_id) == (one.context.trace_id, one.context.span_id)


def test_a_span_bears_the_process_that_it_is_of() -> None:
    own, others = (
        {pair.key: pair.value.string_value for pair in of_process.resource.attributes}
        for of_process in encode([span(), span(service="vllm", resource=RESOURCE), span()]).resource_spans
    )
    assert own["service.name"] == "weft-router"
    assert {"service.instance.id", "service.version", "host.name"} <= set(own)
    assert others == {"service.name": "vllm", **RESOURCE}


def by_the_sdk(one: Span) -> PbSpan:
    """The span, as OpenTelemetry's SDK has it and encodes it."""
    flags = TraceFlags(TraceFlags.SAMPLED)
    trace = int(one.context.trace_id, 16)
    parent = None
    if one.parent_id:
        outside = one.kind in (Kind.SERVER, Kind.CONSUMER)
        parent = SpanContext(trace, int(one.parent_id, 16), is_remote=outside, trace_flags=flags)
    state = TraceState.from_header([one.context.state])
    made = ReadableSpan(
        name=one.name,
        context=SpanContext(trace, int(one.context.span_id, 16), False, flags, state),
        parent=parent,
        attributes=one.attributes,
        events=[SdkEvent(event.name, event.attributes, event.time_ns) for event in one.events],
        kind=SpanKind[one.kind.name],
        instrumentation_scope=InstrumentationScope("weft", "1"),
        status=Status(StatusCode.ERROR, one.error) if one.error else Status(),
        start_time=one.start_ns,
        end_time=one.end_ns,
    )
    return encode_spans([made]).resource_spans[0].scope_spans[0].spans[0]


values = st.one_of(
    st.text(), st.booleans(), st.integers(-(1 << 63), (1 << 63) - 1), st.floats(), st.lists(st.text()).map(tuple)
)
attributes = st.dictionaries(st.text(min_size=1), values, max_size=4)


@given(
    st.sampled_from(Kind),
    st.sampled_from(["", "worker_lost"]),
    st.sampled_from(["", "00f067aa0ba902b8"]),
    st.sampled_from(["", "vendor=x", "a=1,b=2"]),
    attributes,
    st.lists(st.tuples(st.text(), st.integers(0, 1 << 62), attributes), max_size=2),
)
def test_what_is_sent_is_what_the_sdk_would_send(
    kind: Kind, error: str, parent: str, state: str, said: Attributes, events: list[tuple[str, int, Attributes]]
) -> None:
    context = TraceContext.of("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True, state)
    happened = tuple(Event(*event) for event in events)
    one = span(context=context, kind=kind, error=error, parent_id=parent, attributes=said, events=happened)
    of_process = encode([one]).resource_spans[0].scope_spans[0]
    expected = by_the_sdk(one)
    if not error:
        expected.ClearField("status")  # which says that nothing is said
    assert of_process.spans[0].SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


@pytest.mark.parametrize("value", [1 << 64, "half of a pair \ud800", ("a", "\ud800"), None])
def test_what_cannot_be_encoded_is_left_out(value: Any) -> None:
    one = span(attributes={"before": 1, "wrong": value, "after": 2}, events=(Event("e", 1, {"wrong": value}),))
    (read,) = spans_of(encode([one]).SerializeToString(), "router", {})
    assert read.attributes == {"before": 1, "after": 2}
    assert read.events == (Event("e", 1),)


def test_what_a_sender_says_of_itself_is_not_believed() -> None:
    (one,) = spans_of(encode([span()]).SerializeToString(), "vllm", RESOURCE)
    assert (one.service, one.resource) == ("vllm", RESOURCE)


GOOD = {"trace_id": b"t" * 16, "span_id": b"s" * 8}


@pytest.mark.parametrize(
    "other",
    [
        PbSpan(),
        PbSpan(trace_id=b"t", span_id=b"s" * 8),
        PbSpan(trace_id=bytes(16), span_id=b"s" * 8),
        PbSpan(**GOOD, name="x" * LARGEST),
    ],
    ids=["without ids", "short", "zero", "large"],
)
def test_at_a_span_that_is_none_reading_ends(other: PbSpan) -> None:
    found = spans_of(request(PbSpan(name="good", **GOOD), other), "vllm", {})
    assert next(found).name == "good"
    with pytest.raises(ValueError, match="a span"):
        next(found)


def test_what_is_too_much_is_cut() -> None:
    attributes = [KeyValue(key=str(number), value=AnyValue(string_value="x")) for number in range(200)]
    attributes[0].value.string_value = "x" * (LONGEST + 1)
    payload = request(PbSpan(**GOOD, attributes=attributes, events=[PbSpan.Event(name="e")] * 200))
    (one,) = spans_of(payload, "vllm", {})
    assert (len(one.attributes), len(one.events)) == (MOST, MOST)
    assert len(str(one.attributes["0"])) == LONGEST


def test_of_a_list_only_what_has_a_place_is_told() -> None:
    inner = ArrayValue(values=[AnyValue(string_value="x" * LONGEST)] * 2)
    mixed = ArrayValue(values=[AnyValue(string_value="a"), AnyValue(array_value=inner), AnyValue(int_value=1)])
    several = KeyValue(key="several", value=AnyValue(array_value=mixed))
    (one,) = spans_of(request(PbSpan(**GOOD, parent_span_id=bytes(8), attributes=[several])), "vllm", {})
    assert one.attributes == {"several": ("a", "1")}
    assert one.parent_id == "", "none, by OTLP"


def test_a_number_that_json_has_not_is_told_as_text() -> None:
    number = KeyValue(key="n", value=AnyValue(double_value=float("inf")))
    (one,) = spans_of(request(PbSpan(**GOOD, attributes=[number])), "vllm", {})
    assert one.attributes == {"n": "inf"}


def test_a_span_never_ends_before_it_began() -> None:
    (one,) = spans_of(request(PbSpan(trace_id=b"t" * 16, span_id=b"s" * 8, start_time_unix_nano=9)), "vllm", {})
    assert one.end_ns == one.start_ns == 9


def test_other_bytes_are_told() -> None:
    with pytest.raises(ValueError, match="ExportTraceServiceRequest"):
        spans_of(b"\xff\xff\xff", "vllm", {})
