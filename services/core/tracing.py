"""Traces: which one a call belongs to, what becomes a span, and which are kept.

A hop costs a call that is not kept two or three microseconds: no span is made while it runs. What there is to tell is
noted, as times and facts; when the call has ended, whoever carried it asks `Tracer.keeps`, and only then makes the
spans, with the times as they were. A call that failed is so kept, although nobody knew when it began.

The ids are made at the beginning, because the next hop's span names this one's as its parent
(https://www.w3.org/TR/trace-context/).
"""

from __future__ import annotations

import contextvars
import enum
import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import msgspec

from services.core.inference import Headers, Request
from services.core.trace_context import TraceContext as TraceContext
from services.core.trace_context import chance as _chance
from services.core.trace_context import new_root as new_root
from services.core.trace_context import parse as parse

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

AttributeValue = str | bool | int | float | tuple[str, ...]
Attributes = Mapping[str, AttributeValue]


def parent_in(request: Request) -> TraceContext | None:
    """The span that a call names as its parent: one of the mesh, or the client's own."""
    return request.trace or parent_of(request.headers)


def parent_of(headers: Headers) -> TraceContext | None:
    """The span that a call's headers name as its parent."""
    for name, _ in headers:  # most have none, which is to be seen quickly
        if name == TRACEPARENT:
            return _parent_of(headers)
    return None


def _parent_of(headers: Headers) -> TraceContext | None:
    traceparents = [value for name, value in headers if name == TRACEPARENT]
    if len(traceparents) > 1:
        return None  # two parents are none
    return parse(traceparents[0], ",".join([value for name, value in headers if name == TRACESTATE]))


def under(headers: Headers, context: TraceContext) -> Headers:
    """The headers that make this span the parent of whatever the next hop does."""
    kept = [header for header in headers if header[0] != TRACEPARENT and header[0] != TRACESTATE]
    kept.append((TRACEPARENT, context.traceparent))
    if context.state:
        kept.append((TRACESTATE, context.state))
    return tuple(kept)


class Kind(enum.IntEnum):
    """What side of a hop a span is, by OTLP's numbers."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something that happened in the course of a span. Times are in nanoseconds since 1970."""

    name: str
    time_ns: int
    attributes: Attributes = {}


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A span that has ended. `service` says whose it is: `router`, `worker`, `vllm`. Times are in nanoseconds since
    1970; a span whose clock was set back meanwhile ends as it begins. `error` says why it failed, by the reason's name
    in lower case; empty means that it did not. `resource` is what there is to say of the process beyond its service.
    """

    context: TraceContext
    parent_id: str = ""
    name: str
    service: str
    kind: Kind = Kind.INTERNAL
    start_ns: int
    end_ns: int
    attributes: Attributes = {}
    events: tuple[Event, ...] = ()
    error: str = ""
    resource: Attributes = {}

    def __post_init__(self) -> None:
        if self.end_ns < self.start_ns:
            msgspec.structs.force_setattr(self, "end_ns", self.start_ns)


class SpanSink(Protocol):
    """Where ended spans go. Never blocks, never raises: what cannot be kept is dropped and counted."""

    def record(self, span: Span) -> None:
        """Takes a span."""


class Allowance:
    """At most so many a second, and as many at once: bounds what callers, and floods of errors, can have kept."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second) if per_second > 0 else 0.0
        self._clock = clock
        self._left = self._most
        self._at = clock()

    def take(self, count: float = 1.0) -> bool:
        """Whether there are so many more."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < count:
            return False
        self._left -= count
        return True


class Sampling(msgspec.Struct, frozen=True):
    """Which traces are kept: those whose caller has sampled them, if `follow_parent`, at most `forced_per_second` of
    them; a share of `ratio`, from 0 to 1, of those that begin here (of all, without `follow_parent`); and of the others
    all that failed, at most `errors_per_second`, and as many again that were refused for what their callers did.
    """

    ratio: float = 0.01
    follow_parent: bool = True
    forced_per_second: float = 100.0
    errors_per_second: float = 20.0


class Tracer:
    """What a service traces with. Where nothing is traced there is no tracer: callers hold `Tracer | None`, and a
    client's own headers then travel as they came.
    """

    def __init__(
        self,
        sink: SpanSink,
        sampling: Sampling,
        *,
        content: bool = False,
        chance: Callable[[], float] = _chance,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`content` tells that prompts and answers may be told, shortened. `chance` gives numbers from 0 to 1."""
        self.content = content
        self._sink = sink
        self._sampling = sampling
        self._chance = chance
        self._forced = Allowance(sampling.forced_per_second, clock)
        self._errors = Allowance(sampling.errors_per_second, clock)
        self._refusals = Allowance(sampling.errors_per_second, clock)

    def enter(self, parent: TraceContext | None, trace_id: str = "") -> TraceContext:
        """The place of a span at the edge of the mesh, where it is decided whether its trace is sampled. If callers'
        own decisions are followed, whoever has sampled a call gets it, as far as the allowance goes, and whoever has
        not, not. `trace_id`, if there is one, is that of a trace that begins here.
        """
        sampling = self._sampling
        if parent is None:
            return new_root(sampled=self._chance() < sampling.ratio, trace_id=trace_id)
        if not sampling.follow_parent:
            return parent.decided(sampled=self._chance() < sampling.ratio)
        return parent.decided(sampled=parent.sampled and self._forced.take())

    def follow(self, parent: TraceContext | None) -> TraceContext:
        """The place of a span further in, where a part of the mesh has decided; decides only where none has."""
        return self.enter(None) if parent is None else parent.child()

    def keeps(self, context: TraceContext, *, failed: bool, refused: bool = False) -> bool:
        """Whether the spans of what has ended are to be recorded. To be asked once for all that one part did for one
        call: an error that is kept counts against the allowance. What was `refused` for its caller's doing, as for a
        bad key, counts against one of its own: who asks on and on is not to hide the mesh's own failures.
        """
        return context.sampled or (failed and self._errors.take()) or (refused and self._refusals.take())

    def record(self, span: Span) -> None:
        """Hands a span on."""
        self._sink.record(span)


current: contextvars.ContextVar[TraceContext | None] = contextvars.ContextVar("current_span", default=None)
"""The span in whose course code runs, where it runs in a task of its own: logs and RPCs to other services name it."""


def log_fields(context: TraceContext | None) -> dict[str, str]:
    """What a log record bears, as `extra`, to be found from its trace."""
    return {} if context is None else {"trace_id": context.trace_id, "span_id": context.span_id}
