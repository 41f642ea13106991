"""What a router takes of its workers' spans, whose it says they are, and what it drops."""

from __future__ import annotations

import asyncio

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2
from weft.session.v1 import span_pb2

from services.core.tracing import Sampling, Span, Tracer
from services.router.backends.session import Sessions
from services.router.backends.worker_spans import BYTES_PER_SECOND, SPANS_PER_SECOND, WorkerSpans
from services.rpc.mux import SPANS
from tests.testing.clock import Clock
from tests.unit.router.test_sessions import ENDPOINT, SOON, Attached

WHOSE = {"weft.endpoint": ENDPOINT, "weft.instance": "i"}


class Sink:
    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.came = asyncio.Event()

    def record(self, span: Span) -> None:
        self.spans.append(span)
        self.came.set()


class World:
    def __init__(self) -> None:
        self.sink, self.clock = Sink(), Clock()
        self.spans = WorkerSpans(Tracer(self.sink, Sampling()), ENDPOINT, "i", clock=lambda: self.clock.now)

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.sink.spans]


def own(name: str = "serve chat") -> span_pb2.Span:
    return span_pb2.Span(trace_id=b"t" * 16, span_id=b"s" * 8, name=name)


def exported(*names: str) -> bytes:
    """As a vLLM exports it, that says to be somebody else."""
    service = KeyValue(key="service.name", value=AnyValue(string_value="facade"))
    endpoint = KeyValue(key="weft.endpoint", value=AnyValue(string_value="clusters/other/endpoints/x"))
    spans = [trace_pb2.Span(trace_id=b"t" * 16, span_id=b"v" * 8, name=name) for name in names]
    scope = trace_pb2.ScopeSpans(spans=spans)
    resource = trace_pb2.ResourceSpans(resource=Resource(attributes=[service, endpoint]), scope_spans=[scope])
    return ExportTraceServiceRequest(resource_spans=[resource]).SerializeToString()


def test_whose_spans_they_are_is_the_routers_to_say():
    world = World()
    world.spans.take(span_pb2.Spans(spans=[own()], otlp=[exported("llm_request")]))
    assert [(span.service, span.name) for span in world.sink.spans] == [
        ("worker", "serve chat"),
        ("vllm", "llm_request"),
    ]
    assert [span.resource for span in world.sink.spans] == [WHOSE, WHOSE]
    assert world.spans.dropped == 0


def test_more_than_so_many_a_second_are_dropped():
    world, most = World(), int(SPANS_PER_SECOND)
    world.spans.take(span_pb2.Spans(spans=[own()] * (most - 2), otlp=[exported("1", "2", "3")]))
    assert (len(world.names), world.names[-1], world.spans.dropped) == (most - 1, "1", 1), "the export counts, too"
    world.clock.now += 2 / SPANS_PER_SECOND
    world.spans.take(span_pb2.Spans(spans=[own("later")] * 3))
    assert (world.names[-2:], len(world.names), world.spans.dropped) == (["later"] * 2, most + 1, 2)


def test_so_many_exports_a_second_are_read_even_if_there_is_nothing_in_them():
    world = World()
    world.spans.take(span_pb2.Spans(otlp=[b""] * int(SPANS_PER_SECOND)))
    assert world.spans.dropped == 0
    world.spans.take(span_pb2.Spans(otlp=[b""]))
    assert world.spans.dropped == 1


def test_more_than_so_many_bytes_a_second_are_dropped():
    world = World()
    half = span_pb2.Spans(spans=[own("x" * 8192)] * int(BYTES_PER_SECOND / 2 / 8192))
    world.spans.take(half)
    world.spans.take(half)  # by its ids a little more than what is left
    assert (len(world.names), world.spans.dropped) == (len(half.spans), 1)
    world.clock.now += 1
    world.spans.take(half)
    assert (len(world.names), world.spans.dropped) == (2 * len(half.spans), 1)


def test_what_cannot_be_read_is_dropped_with_what_follows_it():
    world = World()
    world.spans.take(span_pb2.Spans(spans=[own("good"), span_pb2.Span(name="without ids"), own("behind")]))
    world.spans.take(span_pb2.Spans(otlp=[exported("1"), b"\xff no message", exported("2")]))
    assert (world.names, world.spans.dropped) == (["good", "1"], 2)
    world.spans.take(span_pb2.Spans(spans=[own("next")]))
    assert world.names[-1] == "next"


async def test_a_session_carries_them_where_the_router_traces():
    sink = Sink()
    attached = Attached()
    attached.sessions = Sessions(attached.roster, agent="router", tracer=Tracer(sink, Sampling()))
    stream, carried = attached.dial()
    stream.say(spans=span_pb2.Spans(spans=[own()]))
    await asyncio.wait_for(sink.came.wait(), SOON)
    assert [(span.name, span.resource) for span in sink.spans] == [("serve chat", WHOSE)]
    assert next(frame.hello.features for frame in stream.told if frame.HasField("hello")) == [SPANS]
    stream.hang_up()
    await asyncio.wait_for(carried, SOON)
