"""The figures of a run: samples of several rounds, and the marks that they are held against."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quantity:
    """What is measured, under which load."""

    name: str
    unit: str
    load: str = ""


#: In the order in which they are shown.
SYSTEMS = ("direct", "separate", "one process")

BOTH = "facade and router"

REQUESTS = "requests/s"
ADDED_P50 = "added p50"
ADDED_P99 = "added p99"
CPU_REQUEST = "CPU per request"
CPU_CHUNK = "CPU per chunk"
RISE = "rise of CPU per request by being watched"

TYPED_MORE = "CPU per call, router, more for Chat than for Infer"
TYPED_STREAM_MORE = "CPU per call, router, more for StreamChat than for Infer, streamed"

CLIENTS_OF_TELEMETRY = 64


def clients(count: int) -> str:
    """The load of closed loops."""
    return "1 client" if count == 1 else f"{count} clients"


def streams(count: int) -> str:
    """The load of paced streams."""
    return f"{count} streams"


#: The highest value that is wished for, by system and quantity.
MARKS = {
    ("separate", Quantity(f"{CPU_REQUEST}, {BOTH}", "µs", clients(64))): 200.0,
    ("separate", Quantity(f"{CPU_CHUNK}, {BOTH}", "µs", streams(64))): 30.0,
    ("separate", Quantity(ADDED_P50, "ms", clients(1))): 1.2,
    ("separate", Quantity(RISE, "%", clients(CLIENTS_OF_TELEMETRY))): 5.0,
    ("separate", Quantity(TYPED_MORE, "µs", clients(8))): 40.0,
    ("one process", Quantity(f"{CPU_REQUEST}, {BOTH}", "µs", clients(64))): 110.0,
    ("one process", Quantity(f"{CPU_CHUNK}, {BOTH}", "µs", streams(64))): 18.0,
    ("one process", Quantity(ADDED_P50, "ms", clients(1))): 0.6,
    ("one process", Quantity("CPU per call, all gates", "µs", "the gates of a warm call")): 15.0,
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity of one system: its samples, a round each."""

    quantity: Quantity
    system: str
    samples: Sequence[float]

    @property
    def median(self) -> float:
        """What is reported."""
        return statistics.median(self.samples)

    @property
    def mark(self) -> float | None:
        """The highest value that is wished for, if there is a wish."""
        return MARKS.get((self.system, self.quantity))


class Figures:
    """Collects samples; figures come in the order of their first sample."""

    def __init__(self) -> None:
        self._samples: dict[tuple[Quantity, str], list[float]] = {}

    def add(self, quantity: Quantity, system: str, value: float) -> None:
        """One more sample."""
        self._samples.setdefault((quantity, system), []).append(value)

    def all(self) -> list[Figure]:
        """All that was measured."""
        return [Figure(quantity, system, samples) for (quantity, system), samples in self._samples.items()]
