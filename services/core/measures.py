"""Counts and distributions that one thread at a time writes, and that the thread of `/metrics` reads; pure.

prometheus_client's own take a lock and about a microsecond for each number, and a call has a dozen of them. Here to
count is `count.value += 1`: a reader may see one number before the other, which the next scrape puts right.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

Labels = tuple[str, ...]
"""The values of a row's labels, in the order of their names in the family."""

OTHER: Final = "other"
"""What stands in a label for all that has no place of its own there."""


class Kind(enum.Enum):
    """What Prometheus may do with the rows of a family: https://prometheus.io/docs/concepts/metric_types/"""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Spread(NamedTuple):
    """A distribution at one moment: how many lay in each bucket, the last one above all bounds, and their sum."""

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float


@dataclass(frozen=True, slots=True)
class Family:
    """All rows of one name. A counter's name ends in `_total`; `meaning` is a sentence."""

    kind: Kind
    name: str
    meaning: str
    labels: Labels
    rows: Sequence[tuple[Labels, float | Spread]]


Source = Callable[[], Iterable[Family]]
"""Gives what there is to show now. It is called in another thread than the loop's: of what the loop writes it only
reads, and what it goes through it has copied before, since the loop goes on.
"""


class Count:
    """A number that only grows. Whoever counts writes `value`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Histogram:
    """A distribution over buckets with these upper bounds, which are in ascending order."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Notes one value. One that equals a bound lies below it, as Prometheus has it."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def spread(self) -> Spread:
        """What was noted up to now."""
        return Spread(self._bounds, tuple(self._counts), self._total)


class Counts:
    """Counters of one name. Callers see to it that `labels` come from bounded sets."""

    def __init__(self, name: str, meaning: str, labels: Labels = ()) -> None:
        self._name = name
        self._meaning = meaning
        self._labels = labels
        self._rows: dict[Labels, Count] = {}

    def at(self, *labels: str) -> Count:
        """The counter with these labels, which shows from now on."""
        found = self._rows.get(labels)
        if found is None:
            found = self._rows[labels] = Count()
        return found

    def family(self) -> Family:
        """What there is to show."""
        rows = [(labels, count.value) for labels, count in tuple(self._rows.items())]
        return Family(Kind.COUNTER, self._name, self._meaning, self._labels, rows)


class Histograms:
    """Distributions of one name, as `Counts`."""

    def __init__(self, name: str, meaning: str, labels: Labels = (), *, bounds: Sequence[float]) -> None:
        self._name = name
        self._meaning = meaning
        self._labels = labels
        self._bounds = bounds
        self._rows: dict[Labels, Histogram] = {}

    def at(self, *labels: str) -> Histogram:
        """The distribution with these labels, which shows from now on."""
        found = self._rows.get(labels)
        if found is None:
            found = self._rows[labels] = Histogram(self._bounds)
        return found

    def family(self) -> Family:
        """What there is to show."""
        rows = [(labels, histogram.spread()) for labels, histogram in tuple(self._rows.items())]
        return Family(Kind.HISTOGRAM, self._name, self._meaning, self._labels, rows)


def gauge(name: str, meaning: str, value: float) -> Family:
    """A gauge without labels."""
    return Family(Kind.GAUGE, name, meaning, (), [((), value)])


def gauges(name: str, meaning: str, labels: Labels, rows: Iterable[tuple[Labels, float]]) -> Family:
    """A gauge with labels."""
    return Family(Kind.GAUGE, name, meaning, labels, list(rows))


def counter(name: str, meaning: str, value: float) -> Family:
    """A counter that is kept elsewhere, without labels."""
    return Family(Kind.COUNTER, name, meaning, (), [((), value)])


def counters(name: str, meaning: str, labels: Labels, rows: Iterable[tuple[Labels, float]]) -> Family:
    """Counters that are kept elsewhere."""
    return Family(Kind.COUNTER, name, meaning, labels, list(rows))


class Bounded:
    """Keeps a label's values few: the first `most` names that are asked for, and `OTHER` for all that come later. Only
    names that administrators have made are to be asked for, never a caller's.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._names: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def label(self, name: str) -> str:
        """What stands for it."""
        if name not in self._names:
            if len(self._names) >= self._most:
                return OTHER
            self._names.add(name)
        return name


class Page:
    """The sources of one process's `/metrics`. Services of one process share it: what several of them show under one
    name has the label `service`.
    """

    def __init__(self) -> None:
        self._sources: list[Source] = []

    def add(self, source: Source) -> None:
        """Shows what it gives from now on, until the process ends."""
        self._sources.append(source)

    @property
    def sources(self) -> tuple[Source, ...]:
        """In the order of their coming."""
        return tuple(self._sources)
