"""Spans put together again: to traces, and each trace to a tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.core import gen_ai, weft_attributes
from services.core.tracing import AttributeValue, Span

_FINE: Final = ("", "ok", "cancelled")


@dataclass(frozen=True, slots=True)
class Trace:
    """The spans of one trace that are known, by their start."""

    id: str
    spans: Sequence[Span]

    @property
    def start_ns(self) -> int:
        """When the first of them began."""
        return self.spans[0].start_ns

    @property
    def end_ns(self) -> int:
        """When the last of them ended."""
        return max(span.end_ns for span in self.spans)

    @property
    def root(self) -> Span:
        """What it is about: the longest span whose parent is not known. Before it there may be a shorter one, such as
        what an Envoy that traces elsewhere asks auth.
        """
        known = {span.context.span_id for span in self.spans}
        tops = [span for span in self.spans if span.parent_id not in known]
        return max(tops or self.spans, key=lambda span: span.end_ns - span.start_ns)

    def told(self, name: str) -> AttributeValue | None:
        """What the first span that has this attribute says."""
        return next((span.attributes[name] for span in self.spans if name in span.attributes), None)

    @property
    def status(self) -> str:
        """How it ended, in a word or two: as the router has it, else as its root."""
        outcome = str(self.told(weft_attributes.OUTCOME) or self.root.error or "ok")
        if outcome == "ok" and self._refusal:
            outcome = f"HTTP {self._refusal}"
        attempts = self.told(weft_attributes.ATTEMPTS)
        retried = isinstance(attempts, int) and attempts > 1
        return f"{in_words(outcome)}, {attempts} attempts" if retried else in_words(outcome)

    @property
    def failed(self) -> bool:
        """Whether it failed, or anything in it, or was refused."""
        wrong = self.told(weft_attributes.OUTCOME) not in (None, *_FINE)
        return wrong or bool(self._refusal) or any(span.error for span in self.spans)

    @property
    def _refusal(self) -> int:
        """With what status a call was refused by a model server, or for a path that there is not; zero for none, and
        where the caller left.
        """
        status = self.root.attributes.get(weft_attributes.HTTP_STATUS)
        return status if isinstance(status, int) and status >= 400 and status != 499 else 0

    def to_builtins(self) -> dict[str, object]:
        """The list's row, for JSON."""
        return {
            "trace_id": self.id,
            "start_time_ns": self.start_ns,
            "duration_ns": self.end_ns - self.start_ns,
            "name": self.root.name,
            "service": self.root.service,
            "principal": self.told(weft_attributes.PRINCIPAL),
            "model": self.told(gen_ai.REQUEST_MODEL),
            "request_id": self.told(weft_attributes.REQUEST_ID),
            "status": self.status,
            "failed": self.failed,
            "spans": len(self.spans),
        }


@dataclass(frozen=True, slots=True)
class Row:
    """A span in the tree, below its parent. `lasts` tells for each level down to it whether it is its parent's last
    child. Without a span it stands for one that is not known, `missing`: a client's own, or one that was lost.
    """

    span: Span | None
    lasts: tuple[bool, ...] = ()
    missing: str = ""


def in_words(reason: str) -> str:
    """An error's name as one reads it."""
    return reason.replace("_", " ")


def traces(spans: Iterable[Span]) -> list[Trace]:
    """The traces, the newest first."""
    found: dict[str, dict[str, Span]] = {}
    for span in spans:
        found.setdefault(span.context.trace_id, {})[span.context.span_id] = span
    gathered = [Trace(id, sorted(by_id.values(), key=lambda span: span.start_ns)) for id, by_id in found.items()]
    return sorted(gathered, key=lambda trace: trace.start_ns, reverse=True)


def rows(trace: Trace) -> list[Row]:
    """The tree, from the top down, siblings by their start. Every span stands in it once, whatever their parents."""
    known = {span.context.span_id for span in trace.spans}
    below: dict[str, list[Span]] = {}
    for span in trace.spans:
        below.setdefault(span.parent_id, []).append(span)
    tops: list[Row] = []
    for span in trace.spans:
        if not span.parent_id:
            tops.append(Row(span))
        elif span.parent_id not in known and below[span.parent_id][0] is span:
            tops.append(Row(None, missing=span.parent_id))
    drawn = _drawn(tops, below)
    seen = {row.span.context.span_id for row in drawn if row.span is not None}
    for span in trace.spans:  # spans that are each other's parents, which only broken senders make
        if span.context.span_id not in seen:
            drawn.append(Row(span))
    return drawn


def _drawn(tops: Iterable[Row], below: Mapping[str, Sequence[Span]]) -> list[Row]:
    """In order of depth first, without recursion: a sender may make a tree as deep as it likes."""
    drawn: list[Row] = []
    left = list(tops)[::-1]
    while left:
        row = left.pop()
        drawn.append(row)
        children = below.get(row.span.context.span_id if row.span is not None else row.missing, ())
        left += [Row(span, (*row.lasts, span is children[-1])) for span in reversed(children)]
    return drawn


def find(known: Sequence[Trace], wanted: str) -> list[Trace]:
    """The traces that are meant by an id, by the beginning of one, or by the id of a request."""
    wanted = wanted.strip()
    begun = [trace for trace in known if trace.id.startswith(wanted.lower())]
    return begun or [trace for trace in known if trace.told(weft_attributes.REQUEST_ID) == wanted]
