"""Spans that are exported, and an exporter in the hands of a test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from services.core.tracing import Span, new_root
from services.runtime.telemetry.batcher import ExportError


def span(name: str = "chat m", **fields: Any) -> Span:
    """A span that has just ended, with what a test says of it."""
    now = time.time_ns()
    whole = {"context": new_root(sampled=True), "service": "router", "start_ns": now - 1_000_000, "end_ns": now}
    return Span(name=name, **{**whole, **fields})


class Kept:
    """An exporter that keeps what it is given, once it is let; with `fails`, which may be changed, it refuses it."""

    def __init__(self, fails: Callable[[Sequence[Span]], Exception | None] = lambda _: None) -> None:
        self.fails = fails
        self.spans: list[Span] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.closed = threading.Event()

    def export(self, spans: Sequence[Span]) -> None:
        """See `Exporter`."""
        self.entered.set()
        self.open.wait()
        if (error := self.fails(spans)) is not None:
            raise error
        self.spans += spans

    def close(self) -> None:
        """See `Exporter`."""
        self.closed.set()


def refused(spans: Sequence[Span]) -> Exception:
    """A failure, of whatever spans."""
    return ExportError("the collector is away", "start it")
