"""A worker's span of each call: what it tells, what vLLM is told, and when it is made."""

from __future__ import annotations

import pytest

from services.core.errors import Reason, ServiceError
from services.core.headers import to_upstream
from services.core.inference import Call, Receiver, Request
from services.core.tracing import Kind, Span, TraceContext, Tracer, current, parent_of
from services.worker.traced import FOLLOWS, TracedInference
from tests.testing.streams import Answer, Answerer, Served

TRACE, PARENT = "ab" * 16, "cd" * 8
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


class Outlet:
    """A sink, and whether it is wanted."""

    def __init__(self, *, wanted: bool = True) -> None:
        self.wanted = wanted
        self.spans: list[Span] = []

    def record(self, span: Span) -> None:
        self.spans.append(span)


class World:
    def __init__(
        self,
        traceparent: str = SAMPLED,
        *,
        wanted: bool = True,
        operation: str = "/v1/chat/completions",
        answerer: Answerer | None = None,
    ) -> None:
        self.outlet = Outlet(wanted=wanted)
        self.answerer = answerer or Answerer()
        headers = (("accept", "*/*"), ("traceparent", traceparent), ("tracestate", "a=1")) if traceparent else ()
        self.request = Request(operation, headers, b"{}")
        self.answer = Answer()
        traced = TracedInference(self.answerer, Tracer(self.outlet, FOLLOWS), self.outlet)
        self.call: Call = traced.open(self.request, self.answer, 10)
        self.answer.opened = True

    @property
    def served(self) -> Served:
        (served,) = self.answerer.calls
        return served

    @property
    def span(self) -> Span:
        (span,) = self.outlet.spans
        return span

    def answer_whole(self, status: int = 200) -> None:
        self.served.head(status)
        self.served.data(b"one")
        self.served.data(b"two")
        self.served.receiver.end()


def names(span: Span) -> list[str]:
    return [event.name for event in span.events]


def test_an_answer_is_a_span_between_the_routers_and_vllms():
    world = World()
    world.call.grant(5)
    world.answer_whole()
    assert (world.answer.body, world.answer.ends, world.served.credit) == (b"onetwo", [None], 15 - 6)
    span = world.span
    assert (span.name, span.service, span.kind, span.error) == ("serve chat", "worker", Kind.SERVER, "")
    assert (span.context.trace_id, span.parent_id) == (TRACE, PARENT)
    told = {"accept": "*/*", "traceparent": span.context.traceparent, "tracestate": "a=1"}
    assert dict(to_upstream(world.served.request)) == told
    assert span.attributes == {
        "gen_ai.operation.name": "chat",
        "http.response.status_code": 200,
        "weft.outcome": "ok",
    }
    assert names(span) == ["head", "first byte", "end"]
    moments = [span.start_ns, *(event.time_ns for event in span.events), span.end_ns]
    assert moments == sorted(moments)


def test_what_the_frame_says_counts_before_a_header():
    place = TraceContext.of("12" * 16, "34" * 8, sampled=True)
    request = Request("/v1/chat/completions", (("traceparent", SAMPLED),), b"{}", trace=place)
    outlet, answerer = Outlet(), Answerer()
    TracedInference(answerer, Tracer(outlet, FOLLOWS), outlet).open(request, Answer(), 10).cancel()
    (span,) = outlet.spans
    assert (span.context.trace_id, span.parent_id) == (place.trace_id, place.span_id)
    assert [name for name, _ in to_upstream(answerer.calls[0].request)] == ["traceparent"]


@pytest.mark.parametrize("traceparent", [UNSAMPLED, "", "nonsense"])
def test_what_nobody_sampled_leaves_nothing_and_vllm_is_told_so(traceparent: str):
    world = World(traceparent)
    world.answer_whole()
    told = parent_of(to_upstream(world.served.request))
    assert told is not None
    assert (world.outlet.spans, world.answer.ends, told.sampled) == ([], [None], False)


def test_where_no_router_traces_the_headers_travel_as_they_came():
    world = World(wanted=False)
    world.answer_whole()
    assert (world.served.request, world.outlet.spans) == (world.request, [])


def test_a_failure_is_kept_although_nobody_sampled_it():
    world = World(UNSAMPLED)
    world.served.receiver.fail(ServiceError(Reason.UPSTREAM_UNREACHABLE))
    assert world.answer.reason is Reason.UPSTREAM_UNREACHABLE
    span = world.span
    assert (span.error, span.context.trace_id, span.parent_id) == ("upstream_unreachable", TRACE, PARENT)
    assert span.attributes["weft.outcome"] == span.attributes["error.type"] == "upstream_unreachable"
    assert names(span) == []


@pytest.mark.parametrize(("status", "error"), [(500, "500"), (503, "503"), (400, ""), (429, "")])
def test_vllms_own_errors_are_failures_from_500_on(status: int, error: str):
    world = World()
    world.answer_whole(status)
    assert (world.span.error, world.span.attributes["http.response.status_code"]) == (error, status)
    assert ("error.type" in world.span.attributes) == bool(error)


def test_who_leaves_is_no_failure_and_hears_nothing_more():
    world = World()
    world.served.head()
    world.answer.left = True
    world.call.cancel()
    assert world.served.cancelled
    assert (world.span.error, world.span.attributes["weft.outcome"]) == ("", "cancelled")
    assert names(world.span) == ["head", "cancelled"]


def test_who_leaves_an_unsampled_call_leaves_nothing():
    world = World(UNSAMPLED)
    world.call.cancel()
    assert world.outlet.spans == []


def test_an_answer_that_has_ended_is_one_span_though_it_is_cancelled_afterwards():
    world = World()
    world.answer_whole()
    world.call.cancel()
    assert world.span.attributes["weft.outcome"] == "ok"


def test_what_is_said_in_the_course_of_a_call_names_its_span():
    seen: list[TraceContext | None] = []

    class Listening(Answerer):
        def open(self, request: Request, receiver: Receiver, credit: int) -> Call:
            seen.append(current.get())
            return super().open(request, receiver, credit)

    world = World(answerer=Listening())
    (context,) = seen
    assert context == parent_of(to_upstream(world.served.request))
    assert current.get() is None
