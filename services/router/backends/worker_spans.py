"""What a worker tells of spans, its own and its vLLM's, on the way to where this router's go: in bounds, as workers are
others' machines.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Final

from weft.session.v1 import span_pb2

from services.core.gen_ai import VLLM
from services.core.tracing import Allowance, Attributes, Span, Tracer
from services.core.weft_attributes import ENDPOINT, INSTANCE
from services.rpc.spans import read_span
from services.runtime.telemetry.otlp import spans_of

log = logging.getLogger(__name__)

SPANS_PER_SECOND: Final = 500.0
"""Each export of a vLLM's counts as one more."""
BYTES_PER_SECOND: Final = 1024.0 * 1024.0
"""And as many at once: a frame that is larger is never taken."""

_COMPLAINTS_PER_SECOND: Final = 1 / 60


class WorkerSpans:
    """The spans of one session. What goes beyond the bounds, or cannot be read, is dropped: a session never ends for
    the sake of a trace.
    """

    def __init__(
        self, tracer: Tracer, endpoint: str, instance: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.dropped = 0
        """Frames that were not taken, or not whole."""
        self._tracer = tracer
        self._resource: Attributes = {ENDPOINT: endpoint, INSTANCE: instance}
        self._number = Allowance(SPANS_PER_SECOND, clock)
        self._size = Allowance(BYTES_PER_SECOND, clock)
        self._complaint = Allowance(_COMPLAINTS_PER_SECOND, clock)

    def take(self, spans: span_pb2.Spans) -> None:
        """Records them. Whose they are is not for the worker to say."""
        try:
            whole = self._size.take(spans.ByteSize()) and all(map(self._record, self._read(spans)))
        except ValueError:
            whole = False
        if not whole:
            self.dropped += 1
            if self._complaint.take():
                message = "a worker of %s sends more spans than are taken, or unreadable ones (%d frames so far)"
                log.warning(message, self._resource[ENDPOINT], self.dropped)

    def _record(self, span: Span) -> bool:
        if not self._number.take():
            return False
        self._tracer.record(span)
        return True

    def _read(self, spans: span_pb2.Spans) -> Iterator[Span]:
        for span in spans.spans:
            yield read_span(span, service="worker", resource=self._resource)
        for payload in spans.otlp:
            if not self._number.take():  # to read many that hold none takes as long
                raise ValueError("too many exports")
            yield from spans_of(payload, VLLM, self._resource)
