"""A trace as text: the tree, with times, and a bar per span."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from services.cli.trace_tree import Row, Trace, in_words, rows
from services.core.tracing import AttributeValue, Event, Span

_LEAST_BAR: Final = 10
_LONGEST_BAR: Final = 48
_LEAST_NAME: Final = 24
_TIMES: Final = 22
"""Columns of offset and duration, with the space before each."""
_DEEPEST: Final = 24
"""Levels that are indented; what lies deeper stands below the deepest."""
_NOTABLE: Final = ("first", "left")
"""Words in the names of events that are shown without being asked for."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What trees and bars are drawn with."""

    child: str = "├ "
    last: str = "└ "
    under: str = "│ "
    bar: str = "━"
    event: str = "◆"
    error: str = "✗"
    cut: str = "…"


ASCII: Final = Marks("|-", "`-", "| ", "=", "*", "x", "~")


def render(trace: Trace, width: int, *, details: bool = False, marks: Marks | None = None) -> Iterator[Text]:
    """The lines, none longer than the width, but where a terminal is too narrow for anything. `details` are all events
    and attributes.
    """
    return _Drawing(trace, width, marks or Marks()).lines(details)


class _Drawing:
    def __init__(self, trace: Trace, width: int, marks: Marks) -> None:
        self._trace = trace
        self._marks = marks
        self._rows = rows(trace)
        self._whole = max(1, trace.end_ns - trace.start_ns)
        self._service = max((len(span.service) for span in trace.spans), default=0) + 2
        left = width - self._service - _TIMES
        longest = max((len(self._title(row)) for row in self._rows if row.span is not None), default=0)
        self._name = max(_LEAST_NAME, min(longest, left - 2 - _LEAST_BAR))
        room = left - self._name - 2
        self._bar = min(_LONGEST_BAR, room) if room >= _LEAST_BAR else 0
        self._width = max(width, self._service + self._name + _TIMES)

    def lines(self, details: bool) -> Iterator[Text]:
        trace, spans = self._trace, len(self._trace.spans)
        began = datetime.datetime.fromtimestamp(trace.start_ns / 1e9).astimezone()
        took = duration(trace.end_ns - trace.start_ns)
        facts = f"{began:%Y-%m-%d %H:%M:%S}  {took}  {spans} span{'s' * (spans != 1)}  {trace.status}"
        yield Text.assemble(("Trace ", "bold"), trace.id)
        yield Text(facts)
        yield Text()
        yield Text(f"{'':{self._service}}{'':{self._name}}{'start':>{_TIMES // 2}}{'took':>{_TIMES // 2}}", "dim")
        for row in self._rows:
            yield self._line(row)
            if row.span is not None:
                yield from self._below(row, row.span, details)

    def _line(self, row: Row) -> Text:
        if row.span is None:
            return Text(self._cut(f"{'':{self._service}}{self._title(row)}", self._width), "dim")
        span, name = row.span, self._cut(self._title(row), self._name)
        failed = "red" if span.error else ""
        line = Text.assemble((f"{span.service:{self._service}}", "cyan"), (f"{name:{self._name}}", failed))
        line.append(f"{duration(span.start_ns - self._trace.start_ns):>{_TIMES // 2}}", "dim")
        line.append(f"{duration(span.end_ns - span.start_ns):>{_TIMES // 2}}")
        if self._bar:
            line.append("  ").append(self._drawn(span), failed or "green")
        return line

    def _below(self, row: Row, span: Span, details: bool) -> Iterator[Text]:
        indent = " " * self._service + self._stems(row)
        if span.error:
            yield Text(self._cut(f"{indent}{self._marks.error} {plain(in_words(span.error))}", self._width), "red")
        for event in span.events:
            if details or _notable(event):
                what = plain(event.name.removeprefix("gen_ai.").replace("_", " "))
                name = self._cut(f"{indent}{self._marks.event} {what}", self._service + self._name)
                at = duration(event.time_ns - self._trace.start_ns)
                yield Text(f"{name:{self._service + self._name}}{at:>{_TIMES // 2}}", "dim")
                if details:
                    yield from self._attributes(f"{indent}    ", event.attributes.items())
        if details:
            yield from self._attributes(f"{indent}  ", [*span.attributes.items(), *span.resource.items()])

    def _attributes(self, indent: str, attributes: Iterable[tuple[str, AttributeValue]]) -> Iterator[Text]:
        for name, value in attributes:
            yield Text(self._cut(plain(f"{indent}{name} = {value}"), self._width), "dim")

    def _title(self, row: Row) -> str:
        stem = self._stems(row, own=True)
        if row.span is None:
            return f"{stem}({row.missing}, which is not kept here: the caller's own, perhaps)"
        return stem + plain(row.span.name)

    def _stems(self, row: Row, *, own: bool = False) -> str:
        """The lines of the tree before a row, or before what stands below it."""
        marks, lasts = self._marks, row.lasts[:_DEEPEST]
        above = lasts[:-1] if own else lasts
        stems = "".join("  " if last else marks.under for last in above)
        return stems + (marks.last if lasts[-1] else marks.child) if own and lasts else stems

    def _drawn(self, span: Span) -> str:
        """The bar: at least one character, its notable events in it."""
        begin, end = self._column(span.start_ns), self._column(span.end_ns)
        cells = [" "] * begin + [self._marks.bar] * (end - begin + 1)
        for event in span.events:
            if _notable(event) and span.start_ns <= event.time_ns <= span.end_ns:
                cells[self._column(event.time_ns)] = self._marks.event
        return "".join(cells)

    def _column(self, time_ns: int) -> int:
        passed = max(0, min(time_ns - self._trace.start_ns, self._whole))
        return min(self._bar - 1, passed * self._bar // self._whole)

    def _cut(self, text: str, width: int) -> str:
        return text if len(text) <= width else text[: max(0, width - 1)] + self._marks.cut


def _notable(event: Event) -> bool:
    return any(word in event.name for word in _NOTABLE)


def plain(text: str) -> str:
    """Without what a terminal obeys: names come from callers."""
    return "".join(char if char.isprintable() else "?" for char in text)


def duration(nanoseconds: int) -> str:
    """In the unit that suits."""
    seconds = nanoseconds / 1e9
    if not nanoseconds:
        return "0"
    if abs(seconds) < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    if abs(seconds) < 1:
        return f"{seconds * 1e3:.1f} ms"
    if abs(seconds) < 100:
        return f"{seconds:.2f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s"
