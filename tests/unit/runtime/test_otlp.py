"""OTLP that is received, and what is sent, are the same spans."""

from __future__ import annotations

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as PbSpan

from services.core.tracing import Event, Kind, TraceContext
from services.runtime.telemetry.otlp import LARGEST, LONGEST, MOST, spans_of
from services.runtime.telemetry.readable import readable
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
    assert list(spans_of(encode_spans([readable(one)]).SerializeToString(), "router", RESOURCE)) == [one]


def test_the_span_of_an_error_is_exported_although_its_trace_was_not_sampled() -> None:
    one = readable(span(context=TraceContext.of("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", False)))
    assert one.context is not None
    assert one.context.trace_flags.sampled


def test_a_span_bears_the_process_that_it_is_of() -> None:
    own = readable(span()).resource.attributes
    assert own["service.name"] == "weft-router"
    assert {"service.instance.id", "service.version", "host.name"} <= set(own)
    others = readable(span(service="vllm", resource=RESOURCE)).resource.attributes
    assert dict(others) == {"service.name": "vllm", **RESOURCE}


def test_what_a_sender_says_of_itself_is_not_believed() -> None:
    (one,) = spans_of(encode_spans([readable(span())]).SerializeToString(), "vllm", RESOURCE)
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
