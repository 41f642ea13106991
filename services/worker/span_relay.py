"""Spans on their way from this worker, and from its vLLM, to a router that takes them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from weft.session.v1 import span_pb2

from services.core.tracing import Span
from services.rpc.spans import add_span

log = logging.getLogger(__name__)

_GATHER: Final = 0.5
"""Seconds that spans gather, so that many go in one frame."""

_AGAIN: Final = 0.05
"""Seconds until the next frame, where one could not hold all."""

_FRAME_SPANS: Final = 128
_FRAME_BYTES: Final = 128 * 1024
"""vLLM's spans that go in one frame, unless a single export is larger: calls share the stream."""

_MOST_SPANS: Final = 1024
_MOST_BYTES: Final = 2 * 1024 * 1024


class Taker(Protocol):
    """A router, as far as spans go."""

    @property
    def takes_spans(self) -> bool:
        """Whether it is attached, and wants them."""

    def send_spans(self, spans: span_pb2.Spans) -> bool:
        """Sends them; False if it cannot at present."""


class SpanRelay:
    """Keeps what waits, in bounds: the oldest make room. The `SpanSink` of the worker's tracer.

    Any router will do, the first before the others: those of one mesh export to the same place, and the one that opened
    a call may be gone when the call's last span comes, which vLLM tells some seconds late.
    """

    def __init__(self, routers: Sequence[Taker]) -> None:
        """`routers` may be filled later."""
        self.dropped = 0
        """Spans, and exports of vLLM's, that had no room."""
        self._routers = routers
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._spans: deque[Span] = deque()
        self._otlp: deque[bytes] = deque()
        self._otlp_bytes = 0

    @property
    def wanted(self) -> bool:
        """Whether any router takes spans."""
        for router in self._routers:  # noqa: SIM110 - asked at each call, and twice as fast as any()
            if router.takes_spans:
                return True
        return False

    def record(self, span: Span) -> None:
        """See `SpanSink.record`."""
        if len(self._spans) >= _MOST_SPANS:
            self._spans.popleft()
            self.dropped += 1
        self._spans.append(span)
        self.wake()

    def take_otlp(self, payload: bytes) -> None:
        """Takes an export of vLLM's."""
        self._otlp.append(payload)
        self._otlp_bytes += len(payload)
        while self._otlp_bytes > _MOST_BYTES:
            self._otlp_bytes -= len(self._otlp.popleft())
            self.dropped += 1
        self.wake()

    def wake(self) -> None:
        """Sends what waits soon: something came, or a router."""
        if self._timer is None and (self._spans or self._otlp) and self.wanted:
            self._timer = self._loop.call_later(_GATHER, self._tick)

    def flush(self) -> bool:
        """Sends what can be sent now; tells whether anything was."""
        sent = False
        for router in self._routers:
            if (self._spans or self._otlp) and router.takes_spans:
                sent |= self._send(router)
        return sent

    def close(self) -> None:
        """Nothing is sent any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self.dropped:
            log.info("%d spans or exports of vLLM's found no room and were dropped", self.dropped)

    def _tick(self) -> None:
        self._timer = None
        self.flush()
        if (self._spans or self._otlp) and self.wanted:
            self._timer = self._loop.call_later(_AGAIN, self._tick)

    def _send(self, router: Taker) -> bool:
        frame = span_pb2.Spans()
        spans = [self._spans.popleft() for _ in range(min(len(self._spans), _FRAME_SPANS))]
        for span in spans:
            add_span(frame, span)
        room = _FRAME_BYTES
        while self._otlp and (room >= len(self._otlp[0]) or not frame.otlp):
            frame.otlp.append(self._otlp.popleft())
            room -= len(frame.otlp[-1])
        if router.send_spans(frame):
            self._otlp_bytes -= sum(map(len, frame.otlp))
            return True
        self._spans.extendleft(reversed(spans))
        self._otlp.extendleft(reversed(frame.otlp))
        return False
