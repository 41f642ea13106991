"""What a worker tells of spans, its own and its vLLM's, on the way to where this router's go: in bounds, for workers are
others' machines.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Final

from google.protobuf.message import DecodeError
from weft.session.v1 import span_pb2

from services.core.gen_ai import VLLM
from services.core.tracing import Allowance, Attributes, Span, Tracer
from services.core.weft_attributes import ENDPOINT, INSTANCE
from services.rpc.spans import bounded, read_span

log = logging.getLogger(__name__)

SPANS_PER_SECOND: Final = 500.0
BYTES_PER_SECOND: Final = 1024.0 * 1024.0
"""And as many at once: a frame that is larger is never taken."""

_TELL_AGAIN: Final = 60.0


class WorkerSpans:
    """The spans of one session. What goes beyond the bounds, or cannot be read, is dropped and counted: a session never
    ends for the sake of a trace.
    """

    def __init__(
        self, tracer: Tracer, endpoint: str, instance: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.dropped = 0
        """Spans, and frames, that were not taken."""
        self._tracer = tracer
        self._resource: Attributes = {ENDPOINT: endpoint, INSTANCE: instance}
        self._number = Allowance(SPANS_PER_SECOND, clock)
        self._size = Allowance(BYTES_PER_SECOND, clock)
        self._complaint = Allowance(1 / _TELL_AGAIN, clock)

    def take(self, spans: span_pb2.Spans) -> None:
        """Records them. Whose they are is not for the worker to say."""
        dropped = self.dropped
        if self._size.take(spans.ByteSize()):
            try:
                for span in self._read(spans):
                    if self._number.take():
                        self._tracer.record(span)
                    else:
                        self.dropped += 1
            except (DecodeError, ValueError):
                self.dropped += 1
        else:
            self.dropped += 1
        if self.dropped > dropped and self._complaint.take():
            log.warning(
                "a worker of %s sends spans too fast, or unreadable ones: %d were dropped so far",
                self._resource[ENDPOINT],
                self.dropped,
            )

    def _read(self, spans: span_pb2.Spans) -> Iterator[Span]:
        for span in spans.spans:
            yield read_span(span, service="worker", resource=self._resource)
        from services.runtime.telemetry.otlp import spans_of

        for payload in spans.otlp:
            for span in spans_of(payload, VLLM, self._resource):
                yield bounded(span)
