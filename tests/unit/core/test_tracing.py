"""Trace contexts by W3C's rules, and which traces are kept."""

from __future__ import annotations

import pytest

from services.core.tracing import (
    Allowance,
    Sampling,
    Span,
    TraceContext,
    Tracer,
    log_fields,
    new_root,
    parent_of,
    parse,
    under,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
NOT_SAMPLED = f"00-{TRACE}-{SPAN}-00"


class Nowhere:
    def record(self, span: Span) -> None:
        raise AssertionError("nothing is recorded here")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def tracer(clock: Clock | None = None, chance: float = 0.5, **sampling: float | bool) -> Tracer:
    return Tracer(Nowhere(), Sampling(**sampling), chance=lambda: chance, clock=clock or Clock())  # type: ignore[arg-type]


def test_a_traceparent_is_read_and_written() -> None:
    context = parse(SAMPLED, "a=1")
    assert context == TraceContext.of(TRACE, SPAN, True, "a=1")
    assert context.traceparent == SAMPLED
    assert log_fields(context) == {"trace_id": TRACE, "span_id": SPAN}
    assert parse(f"00-{TRACE}-{SPAN}-08") == TraceContext.of(TRACE, SPAN, False)
    assert parse(f"cc-{TRACE}-{SPAN}-03-what-comes-later") == TraceContext.of(TRACE, SPAN, True)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "",
        "00",
        SAMPLED.upper(),
        f" {SAMPLED}",
        f"{SAMPLED}\n",
        f"{SAMPLED}-more",
        f"{SAMPLED}x",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
    ],
)
def test_what_cannot_be_read_is_no_parent(wrong: str | None) -> None:
    assert parse(wrong) is None


@pytest.mark.parametrize("state", ["a=1\r\nx-evil: 1", "a=\x00", "a=\u00e9", "a" * 513])
def test_a_tracestate_that_no_header_can_hold_does_not_travel(state: str) -> None:
    assert parse(SAMPLED, state) == TraceContext.of(TRACE, SPAN, True)


def test_two_parents_are_none_and_states_are_joined() -> None:
    assert parent_of((("traceparent", SAMPLED), ("traceparent", SAMPLED))) is None
    joined = parent_of((("tracestate", "a=1"), ("traceparent", SAMPLED), ("tracestate", "b=2")))
    assert joined == TraceContext.of(TRACE, SPAN, True, "a=1,b=2")


def test_the_next_hop_hears_of_one_parent() -> None:
    context = TraceContext.of(TRACE, "1" * 16, False, "a=1")
    headers = (("traceparent", SAMPLED), ("accept", "x"), ("tracestate", "z=1"), ("traceparent", SAMPLED))
    assert under(headers, context) == (("accept", "x"), ("traceparent", context.traceparent), ("tracestate", "a=1"))


def test_a_callers_decision_is_followed_as_far_as_the_allowance_goes() -> None:
    clock = Clock()
    edge = tracer(clock, ratio=0.0, forced_per_second=2.0)
    asked = [edge.enter(parse(SAMPLED)) for _ in range(3)]
    assert [context.sampled for context in asked] == [True, True, False]
    assert {context.trace_id for context in asked} == {TRACE}
    assert len({context.span_id for context in asked} | {SPAN}) == 4
    clock.now += 0.5
    assert [edge.enter(parse(SAMPLED)).sampled for _ in range(2)] == [True, False]
    assert not tracer(ratio=1.0).enter(parse(NOT_SAMPLED)).sampled


def test_a_callers_decision_is_not_followed_where_it_is_not_to_be() -> None:
    edge = tracer(ratio=0.6, follow_parent=False)
    assert edge.enter(parse(NOT_SAMPLED)).sampled
    assert not tracer(ratio=0.4, follow_parent=False).enter(parse(SAMPLED)).sampled


def test_further_in_the_decision_stands() -> None:
    inside = tracer(ratio=0.0, follow_parent=False, forced_per_second=0.0)
    assert inside.follow(parse(SAMPLED)).sampled
    assert not inside.follow(None).sampled


def test_failures_are_kept_as_far_as_their_allowance_goes() -> None:
    clock = Clock()
    service = tracer(clock, errors_per_second=1.0)
    dropped = new_root(sampled=False)
    assert service.keeps(new_root(sampled=True), failed=False)
    assert not service.keeps(dropped, failed=False)
    assert [service.keeps(dropped, failed=False, refused=True) for _ in range(2)] == [True, False]
    assert [service.keeps(dropped, failed=True) for _ in range(2)] == [True, False]
    clock.now += 1
    assert service.keeps(dropped, failed=True)


def test_an_allowance_of_nothing_is_none() -> None:
    clock = Clock()
    nothing = Allowance(0.0, clock)
    assert not nothing.take()
    clock.now += 100
    assert not nothing.take()


def test_a_span_whose_clock_was_set_back_ends_as_it_begins() -> None:
    place = new_root(sampled=True)
    assert Span(context=place, name="x", service="router", start_ns=7, end_ns=3).end_ns == 7
    assert Span(context=place, name="x", service="router", start_ns=7, end_ns=8).end_ns == 8
