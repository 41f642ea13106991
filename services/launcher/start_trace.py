"""The start of a worker in the trace of the call that it was decided for: the start itself, and its stages under it.

All that a span needs is kept with the start. So a launcher that takes over, or comes back, in the middle of a start
makes the spans that are left, with the ids that the worker was given long before.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from services.core import weft_attributes
from services.core.tracing import Attributes, Kind, Span, TraceContext, Tracer, parse
from services.launcher.starts import Start, StartState

_NAMES = (
    (weft_attributes.ENDPOINT, "endpoint"),
    (weft_attributes.TASK, "task"),
    (weft_attributes.JOB, "job"),
    (weft_attributes.HOST, "host"),
    (weft_attributes.INSTANCE, "instance"),
)


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage that has ended, in seconds since 1970. `error` is the start's outcome, if it failed there."""

    name: str
    begun: float
    ended: float
    error: str = ""


def stages(start: Start) -> list[Stage]:
    """Those that have ended: `submit`, from the decision to the task; `queue`, until the worker attached; `load`, until
    its vLLM answered. The one in which the start was over is the last.
    """
    found: list[Stage] = []
    begun = start.created_at
    for name, ended in (("submit", start.submitted_at), ("queue", start.attached_at), ("load", start.ready_at)):
        if ended is None:
            if not start.live:
                found.append(Stage(name, begun, start.ended_at or begun, _error(start)))
            break
        found.append(Stage(name, begun, ended))
        begun = ended
    return found


class StartTraces:
    """Makes the spans of starts. What becomes of a worker that has served is not told: that is no part of its start."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def decided(self, start: Start) -> Start:
        """A start with a place in its cause's trace, or in one of its own where no call has caused it."""
        return msgspec.structs.replace(start, place=self._tracer.follow(parse(start.cause)).traceparent)

    def changed(self, before: Start, after: Start) -> None:
        """Something has happened to a start. Stages of a sampled trace are told as they end, for a start may take
        hours; those of another all at once, if the start has failed.
        """
        place = parse(after.place)
        if place is None:
            return
        over = _is_over(after) and not _is_over(before)
        if place.sampled:
            ended = stages(after)[len(stages(before)) :]
        elif over and self._tracer.keeps(place, failed=bool(_error(after))):
            ended = stages(after)
        else:
            return
        for stage in ended:
            self._tracer.record(_stage_span(after, stage, place))
        if over:
            self._tracer.record(_start_span(after, place))


def _is_over(start: Start) -> bool:
    return start.ready_at is not None or not start.live


def _error(start: Start) -> str:
    return start.outcome or "other" if start.state is StartState.FAILED and start.ready_at is None else ""


def _start_span(start: Start, place: TraceContext) -> Span:
    parent = parse(start.cause)
    ended = start.ready_at if start.ready_at is not None else start.ended_at or start.created_at
    outcome = "ready" if start.ready_at is not None else start.outcome
    return Span(
        context=place,
        parent_id=parent.span_id if parent is not None else "",
        name=f"start {start.endpoint}",
        service="launcher",
        start_ns=_ns(start.created_at),
        end_ns=_ns(ended),
        attributes={**_facts(start), weft_attributes.OUTCOME: outcome},
        error=_error(start),
    )


def _stage_span(start: Start, stage: Stage, place: TraceContext) -> Span:
    return Span(
        context=place.child(),
        parent_id=place.span_id,
        name=stage.name,
        service="launcher",
        kind=Kind.PRODUCER if stage.name == "submit" else Kind.INTERNAL,
        start_ns=_ns(stage.begun),
        end_ns=_ns(stage.ended),
        attributes=_facts(start),
        error=stage.error,
    )


def _facts(start: Start) -> Attributes:
    known = {attribute: value for attribute, field in _NAMES if (value := getattr(start, field))}
    return {weft_attributes.START: start.id, weft_attributes.SLOT: start.slot, **known}


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
