"""How a worker began: told once, in the trace of the start that it comes from."""

from __future__ import annotations

import time
from typing import Any

import pytest

from services.core.errors import Reason, ServiceError
from services.core.tracing import Span, TraceContext, Tracer
from services.worker.ending import Exit, WorkerFailedError
from services.worker.start_span import StartSpan, process_begun
from services.worker.traced import FOLLOWS

START = TraceContext.of("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)
UNSAMPLED = TraceContext.of(START.trace_id, START.span_id, sampled=False)


class World:
    def __init__(self, place: TraceContext | None, **how: Any) -> None:
        self.spans: list[Span] = []
        self.now = 10
        environ = {} if place is None else {"TRACEPARENT": place.traceparent}
        self.beginning = StartSpan(Tracer(self, FOLLOWS), environ, begun=7, clock=lambda: self.now, **how)

    def record(self, span: Span) -> None:
        self.spans.append(span)


def test_from_the_first_moment_until_vllm_answers() -> None:
    world = World(START, job="job-1")
    world.beginning.attached()
    world.now = 15
    world.beginning.attached()
    world.now = 20
    world.beginning.ready()
    (span,) = world.spans
    assert (span.name, span.start_ns, span.end_ns, span.error) == ("start worker", 7, 20, "")
    assert (span.context.trace_id, span.parent_id) == (START.trace_id, START.span_id)
    assert [(event.name, event.time_ns) for event in span.events] == [("attached", 10), ("vllm ready", 20)]
    assert (span.attributes["weft.outcome"], span.attributes["weft.job"]) == ("ready", "job-1")
    world.beginning.ready()
    world.beginning.over(WorkerFailedError(Exit.VLLM_FAILED, "vLLM ended."))
    assert len(world.spans) == 1, "what comes later is no part of it"


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (WorkerFailedError(Exit.VLLM_FAILED, "vLLM ended."), "vllm_failed"),
        (ServiceError(Reason.AUTH_UNAVAILABLE), "auth_unavailable"),
        (RuntimeError("a bug"), "internal"),
    ],
)
def test_a_worker_that_fails_first_says_why_in_any_trace(failure: Exception, outcome: str) -> None:
    world = World(UNSAMPLED)
    world.beginning.over(failure)
    (span,) = world.spans
    assert (span.error, span.attributes["weft.outcome"], span.attributes["error.type"]) == (outcome, outcome, outcome)


def test_one_that_is_told_to_stop_before_it_is_ready_has_not_failed() -> None:
    for place, spans in ((START, 1), (UNSAMPLED, 0)):
        world = World(place)
        world.beginning.over(None)
        assert [(span.error, span.attributes["weft.outcome"]) for span in world.spans] == [("", "stopped")] * spans


def test_a_start_that_is_not_sampled_is_not_told() -> None:
    world = World(UNSAMPLED)
    world.beginning.ready()
    assert not world.spans


def test_a_worker_that_belongs_to_no_trace_has_no_span() -> None:
    world = World(None)
    world.beginning.attached()
    world.beginning.over(RuntimeError("a bug"))
    world.beginning.ready()
    assert not world.spans


def test_a_process_knows_when_it_began() -> None:
    assert 0 < time.time_ns() - process_begun() < 3600 * 10**9
    assert abs(process_begun() - process_begun()) < 10**9
