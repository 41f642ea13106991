"""Spans over the session: there and back, only to a router that asked, never in the way of answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from weft.session.v1 import frame_pb2, span_pb2

from services.core.errors import Reason, ServiceError
from services.core.tracing import Event, Kind, Span, TraceContext
from services.rpc.limits import ProtocolViolationError
from services.rpc.mux import SPANS
from services.rpc.spans import LARGEST, add_span, read_span
from tests.testing.streams import Answerer, End, connect, request, settle

TEXTS = st.text(max_size=20)
VALUES = st.one_of(
    TEXTS,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(TEXTS, max_size=3).map(tuple),
)
ATTRIBUTES = st.dictionaries(TEXTS, VALUES, max_size=5)
TIMES = st.integers(0, 2**63)


def ids(length: int) -> st.SearchStrategy[str]:
    return st.binary(min_size=length, max_size=length).filter(any).map(bytes.hex)


SPAN = st.builds(
    Span,
    context=st.builds(TraceContext.of, ids(16), ids(8), st.just(True), TEXTS),
    parent_id=st.one_of(st.just(""), ids(8)),
    name=TEXTS,
    service=st.just("worker"),
    kind=st.sampled_from(Kind),
    start_ns=TIMES,
    end_ns=st.integers(2**63, 2**64 - 1),
    attributes=ATTRIBUTES,
    events=st.lists(st.builds(Event, TEXTS, TIMES, ATTRIBUTES), max_size=3).map(tuple),
    error=TEXTS,
    resource=st.just({"weft.endpoint": "e"}),
)


@given(SPAN)
def test_a_span_travels_whole(span: Span):
    frame = span_pb2.Spans()
    add_span(frame, span)
    (proto,) = span_pb2.Spans.FromString(frame.SerializeToString()).spans
    assert read_span(proto, service="worker", resource={"weft.endpoint": "e"}) == span


@pytest.mark.parametrize(
    "proto",
    [
        span_pb2.Span(),
        span_pb2.Span(trace_id=b"t" * 16, span_id=b"s" * 7),
        span_pb2.Span(trace_id=b"t" * 15, span_id=b"s" * 8),
        span_pb2.Span(trace_id=b"t" * 16, span_id=b"s" * 8, parent_span_id=b"1"),
        span_pb2.Span(trace_id=bytes(16), span_id=b"s" * 8),
        span_pb2.Span(trace_id=b"t" * 16, span_id=bytes(8)),
    ],
)
def test_ids_of_another_length_or_all_zeros_are_none(proto: span_pb2.Span):
    with pytest.raises(ValueError, match="ids"):
        read_span(proto, service="worker", resource={})


def test_a_number_that_json_has_not_is_told_as_text():
    number = span_pb2.Attribute(name="n", real=float("nan"))
    proto = span_pb2.Span(trace_id=b"t" * 16, span_id=b"s" * 8, attributes=[number])
    assert read_span(proto, service="worker", resource={}).attributes == {"n": "nan"}


def test_a_span_is_bounded():
    much = [span_pb2.Attribute(name=str(number)) for number in range(100)]
    events = [span_pb2.SpanEvent(name="e", attributes=much)] * 20 + [span_pb2.SpanEvent(name="e")] * 100
    proto = span_pb2.Span(
        trace_id=b"t" * 16,
        span_id=b"s" * 8,
        parent_span_id=bytes(8),
        trace_state="s" * 513,
        start_time_unix_nano=7,
        end_time_unix_nano=3,
        attributes=much,
        events=events,
    )
    span = read_span(proto, service="worker", resource={})
    assert (span.parent_id, span.context.state, span.start_ns, span.end_ns) == ("", "", 7, 7)
    assert (len(span.attributes), len(span.events), len(span.events[0].attributes)) == (64, 32, 64)
    proto.name = "n" * LARGEST
    with pytest.raises(ValueError, match="large"):
        read_span(proto, service="worker", resource={})


def linked(taken: list[span_pb2.Spans]) -> tuple[End, End, Answerer]:
    """A router that takes spans, a worker, and who answers."""
    answerer = Answerer()
    router, worker = End(take_spans=taken.append), End(answerer)
    settle(router, worker)
    return router, worker, answerer


def some(name: str = "serve chat") -> span_pb2.Spans:
    return span_pb2.Spans(spans=[span_pb2.Span(name=name)], otlp=[b"payload"])


def test_a_router_that_asks_gets_them():
    taken: list[span_pb2.Spans] = []
    router, worker, _ = linked(taken)
    assert (worker.mux.takes_spans, router.mux.takes_spans) == (True, False)
    assert worker.mux.send_spans(some())
    settle(router, worker)
    assert taken == [some()]
    assert not worker.mux.pending


def test_a_router_that_does_not_ask_gets_none():
    router, worker, _ = connect()
    assert SPANS not in worker.events.hellos[0].features
    assert SPANS in router.events.hellos[0].features
    assert not worker.mux.send_spans(some())
    with pytest.raises(ProtocolViolationError, match="spans from the wrong end"):
        router.receive(frame_pb2.Frame(spans=some()))


def test_one_frame_at_a_time_waits():
    taken: list[span_pb2.Spans] = []
    router, worker, _ = linked(taken)
    assert worker.mux.send_spans(some("1"))
    assert not worker.mux.send_spans(some("2"))
    settle(router, worker)
    assert worker.mux.send_spans(some("3"))
    settle(router, worker)
    assert [spans.spans[0].name for spans in taken] == ["1", "3"]


def test_answers_come_between_and_control_frames_before():
    taken: list[span_pb2.Spans] = []
    router, worker, answerer = linked(taken)
    router.call(request())
    settle(router, worker)
    worker.mux.send_spans(some())
    answerer.calls[0].head()
    worker.mux.report(frame_pb2.Report())
    kinds = [frame.WhichOneof("kind") for frame in worker.take()]
    assert kinds == ["report", "spans", "head"]
    assert worker.mux._outbox.data_bytes == 0


def test_a_session_that_is_over_takes_none():
    taken: list[span_pb2.Spans] = []
    _, worker, _ = linked(taken)
    worker.mux.send_spans(some())
    worker.mux.close(ServiceError(Reason.ROUTER_UNAVAILABLE))
    assert not worker.mux.takes_spans
    assert not worker.mux.send_spans(some())
    assert worker.mux._outbox.data_bytes == 0
