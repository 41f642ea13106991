"""Spans on their way to where they are kept: a bounded queue, and a thread that empties it in batches.

Not the SDK's BatchSpanProcessor: it wants its own spans, which cost the loop ten times what a `Span` does; it waits up
to thirty seconds when it is shut down; it says in the log of every batch that failed; and it does not tell how many
spans it drops.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from services.core.tracing import Span
from services.runtime.telemetry.counts import SPANS

log = logging.getLogger(__name__)

QUEUE: Final = 4096
"""Spans that wait at most; later ones are dropped."""
BATCH: Final = 128
"""Spans of one export. To encode them takes a millisecond or two, in which the loop has to share the interpreter."""
DELAY: Final = 0.5
"""Seconds in which spans gather to a batch."""
SILENCE: Final = 60.0
"""Seconds between two complaints about the same sink."""


class ExportError(Exception):
    """Spans could not be handed on. Neither sentence holds a secret."""

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(f"{why}; {remedy}")
        self.why = why
        self.remedy = remedy


class Exporter(Protocol):
    """Where spans are kept. It is called by one thread, and may take its time."""

    def export(self, spans: Sequence[Span]) -> None:
        """Keeps them. Raises ExportError."""

    def close(self) -> None:
        """Breaks off what goes on, from another thread, and lets all go."""


class Batcher:
    """A sink that takes at once and hands on later. `name` stands in metrics and logs."""

    def __init__(self, name: str, exporter: Exporter, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._exporter = exporter
        self._clock = clock
        self._queue: deque[Span] = deque()
        self._some = threading.Event()
        self._enough = threading.Event()
        self._closing = False
        self._given_up = False
        self._lost = 0
        self._quiet_until = clock()
        self._exported, self._dropped, self._failed = (
            SPANS.labels(name, outcome) for outcome in ("exported", "dropped", "failed")
        )
        self._thread = threading.Thread(target=self._run, name=f"spans-{name}", daemon=True)
        self._thread.start()

    def record(self, span: Span) -> None:
        """See `SpanSink`; from any thread."""
        waiting = len(self._queue)
        if self._closing or waiting >= QUEUE:
            self._dropped.inc()
            return
        self._queue.append(span)
        # After the span is there: the thread clears the event before it looks.
        if not self._some.is_set():
            self._some.set()
        if waiting >= BATCH and not self._enough.is_set():
            self._enough.set()

    def close(self, seconds: float) -> None:
        """Hands on what waits, as far as the seconds suffice; the rest is dropped."""
        self._closing = True
        self._some.set()
        self._enough.set()
        self._thread.join(seconds)
        self._given_up = True
        self._exporter.close()
        self._dropped.inc(len(self._queue))

    def _run(self) -> None:
        while not self._closing:
            self._some.wait()
            self._some.clear()
            self._enough.wait(DELAY)
            self._enough.clear()
            self._empty()
        self._empty()

    def _empty(self) -> None:
        while self._queue and not self._given_up:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            self._export(batch)

    def _export(self, batch: Sequence[Span]) -> None:
        try:
            self._exporter.export(batch)
        except ExportError as error:
            self._fail(len(batch), str(error))
        except Exception as error:
            if len(batch) > 1:  # one span that cannot be written must not take the others with it
                for span in batch:
                    self._export([span])
            else:
                self._fail(1, f"a span cannot be written: {type(error).__name__}; this is a fault of Weft's, report it")
        else:
            self._exported.inc(len(batch))
            if self._lost:
                log.info("spans are kept again", extra={"sink": self._name, "lost": self._lost})
                self._lost = 0

    def _fail(self, spans: int, why: str) -> None:
        self._failed.inc(spans)
        self._lost += spans
        if self._given_up or self._clock() < self._quiet_until:
            return
        self._quiet_until = self._clock() + SILENCE
        log.warning("spans are lost, calls go on: %s", why, extra={"sink": self._name, "lost": self._lost})
