"""The multiplexer: many calls over one bidirectional stream.

`Mux` is one end of it, as a state machine: frames in, frames out; no I/O, no task and no clock of its own, which
`services/rpc/link.py` gives it. The same class serves both hops: facade to router, where the facade opens calls, and
router to worker, where the router does.

Rules of the protocol, which `protos/weft/session/v1/frame.proto` states frame by frame:

* One end opens calls (`outgoing.py`), the other answers them (`incoming.py`). Call numbers rise, and none is used
  again.
* Each direction of each call has a credit in bytes. Who sends beyond it breaks the protocol, and loses the stream.
* A frame for a call that has ended is no error: it crossed the end on its way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from weft.session.v1 import frame_pb2, span_pb2

from services.core.answers import ReadyAnswer
from services.core.errors import Reason, ServiceError
from services.core.inference import Call, Inference, Receiver, Request
from services.rpc.errors import from_proto
from services.rpc.frames import Frames
from services.rpc.incoming import IncomingCalls
from services.rpc.limits import DEFAULT_LIMITS, MuxLimits, ProtocolViolationError
from services.rpc.outbox import Lane, Outbox
from services.rpc.outgoing import OutgoingCalls

log = logging.getLogger(__name__)

PROTOCOL_VERSION: Final = 1
SPANS: Final = "spans"
"""The feature of a router that takes its workers' spans, and of a worker that has some."""

Handler = Callable[[frame_pb2.Frame], None]


class SessionEvents(Protocol):
    """What happens outside any call."""

    def hello(self, hello: frame_pb2.Hello) -> None:
        """The peer has introduced itself."""

    def drain(self) -> None:
        """The peer wants no more calls."""

    def report(self, report: frame_pb2.Report) -> None:
        """The peer, a worker, says how it is doing."""

    def stop(self, stop: frame_pb2.Stop) -> None:
        """The peer, a router, wishes that this worker end."""


class Mux:
    """One end of a multiplexed stream.

    `serves` answers the calls that the peer opens; without it, this end opens calls, and is itself an `Inference`: the
    remote one. `take_spans` takes the peer's spans; without it, this end does not ask for any. `wake` is called when
    there is something to take, or the mux has closed. `defer` runs a function soon, outside the present call stack.
    """

    def __init__(
        self,
        *,
        agent: str,
        wake: Callable[[], None],
        defer: Callable[[Callable[[], None]], object],
        events: SessionEvents,
        serves: Inference | None = None,
        limits: MuxLimits = DEFAULT_LIMITS,
        take_spans: Callable[[span_pb2.Spans], None] | None = None,
    ) -> None:
        self._wake = wake
        self._defer = defer
        self._events = events
        self._limits = limits
        self._outbox = Outbox(wake)
        self._peer: frame_pb2.Hello | None = None
        self._peer_drains = False
        self.closed: ServiceError | None = None
        self._handlers: dict[str, Handler] = {
            "hello": self._on_hello,
            "ping": self._on_ping,
            "pong": lambda frame: None,  # That it came is all that it says, and the link has seen that.
            "drain": self._on_drain,
            "report": lambda frame: events.report(frame.report),
            "stop": lambda frame: events.stop(frame_pb2.Stop.FromString(frame.stop.SerializeToString())),
        }
        hello = frame_pb2.Hello(version=PROTOCOL_VERSION, agent=agent)
        self.takes_spans = False
        """Whether the peer, a router, wants spans."""
        self._spans = Lane(0)  # not among the control frames: no token is to wait for many spans
        if take_spans is not None:
            self._handlers["spans"] = lambda frame: take_spans(frame.spans)
        if take_spans is not None or serves is not None:
            hello.features.append(SPANS)
        self._outgoing: OutgoingCalls | None = None
        self._incoming: IncomingCalls | None = None
        if serves is None:
            self._outgoing = OutgoingCalls(self._outbox)
            self._handlers |= self._outgoing.handlers
        else:
            self._incoming = IncomingCalls(self._outbox, serves, limits, self._overflow)
            self._handlers |= self._incoming.handlers
            hello.max_calls = limits.max_calls
            hello.body_credit = limits.body_credit
        self._outbox.control(0, hello)

    def receive(self, frames: Iterable[frame_pb2.Frame]) -> None:
        """Takes in frames. Raises `ProtocolViolationError`; the stream must then end, and `close` be called."""
        for frame in frames:
            kind = frame.WhichOneof("kind")
            if self.closed is not None or kind is None:
                continue  # A kind from a newer peer reads as none.
            if self._peer is None and kind != "hello":
                raise ProtocolViolationError(f"{kind} before hello")
            if frame.call == 0 and kind == "error":
                self.close(from_proto(frame.error))
                continue
            handler = self._handlers.get(kind)
            if handler is None:
                raise ProtocolViolationError(f"{kind} from the wrong end")
            handler(frame)
        if len(self._outbox) > self._limits.max_waiting:
            raise ProtocolViolationError("it sends and does not read")

    def take(self, frames: Frames) -> None:
        """Moves what is to be sent into a message."""
        self._outbox.take(frames)
        if self._incoming is not None:
            self._incoming.release()

    @property
    def pending(self) -> bool:
        """Whether there is something to take."""
        return bool(self._outbox)

    @property
    def peer(self) -> frame_pb2.Hello | None:
        """How the peer introduced itself; None until it has."""
        return self._peer

    @property
    def open_calls(self) -> int:
        """Calls that are open now."""
        return len(self._incoming if self._incoming is not None else self._outgoing or ())

    @property
    def accepting(self) -> bool:
        """Whether `open` would send a call, rather than refuse it at once."""
        return self._refusal() is None

    def open(self, request: Request, receiver: Receiver, credit: int) -> Call:
        """See `Inference.open`. Refused as WORKER_LOST, SHUTTING_DOWN or OVERLOADED where the peer cannot take it."""
        if (refusal := self._refusal()) is not None:
            refused = ReadyAnswer(refusal, receiver, credit)
            self._defer(refused.tell)
            return refused
        assert self._outgoing is not None
        assert self._peer is not None
        return self._outgoing.open(request, receiver, credit, self._peer.body_credit)

    def close(self, error: ServiceError) -> None:
        """The stream is gone, or is to go: ends every call, those that we opened with the error."""
        if self.closed is None:
            self.closed = error
            self.takes_spans = False
            if self._outgoing is not None:
                self._outgoing.close(error)
            if self._incoming is not None:
                self._incoming.close()
            self._outbox.clear()
            self._wake()

    def tell_why(self, error: ServiceError) -> None:
        """Tells the peer why the stream is about to end."""
        self._outbox.control(0, error)

    def ping(self, nonce: int) -> None:
        """Asks the peer for a sign of life."""
        self._outbox.control(0, frame_pb2.Ping(nonce=nonce))

    def drain(self, grace: float) -> None:
        """Asks the peer to open no more calls; `grace` is in seconds."""
        self._outbox.control(0, frame_pb2.Drain(grace_ms=int(grace * 1000)))

    def report(self, report: frame_pb2.Report) -> None:
        """Tells the peer, a router, how this worker is doing."""
        self._outbox.control(0, report)

    def send_spans(self, spans: span_pb2.Spans) -> bool:
        """Tells the peer, a router, of spans; False if it takes none, or has not read the last ones."""
        if not self.takes_spans or self._spans.items:
            return False
        self._outbox.put(self._spans, spans)
        return True

    def stop(self, why: str) -> None:
        """Wishes that the peer, a worker, finish its open calls in its own time, and end."""
        self._outbox.control(0, frame_pb2.Stop(why=why))

    def _refusal(self) -> ServiceError | None:
        if self.closed is not None:
            return self.closed
        if self._peer is None or self._outgoing is None:
            return ServiceError(Reason.WORKER_LOST)
        if self._peer_drains:
            return ServiceError(Reason.SHUTTING_DOWN)
        if len(self._outgoing) >= self._peer.max_calls:
            return ServiceError(Reason.OVERLOADED, retry_after=1.0)
        return None

    def _overflow(self) -> None:
        # Deferred: this is called by whoever computes an answer, in the middle of another stream's frames.
        error = ServiceError(Reason.PROTOCOL_VIOLATION, "The peer grants credit and does not read.")
        self._defer(lambda: self.close(error))

    def _on_hello(self, frame: frame_pb2.Frame) -> None:
        if self._peer is not None or frame.hello.version < 1:
            raise ProtocolViolationError("a second hello, or one without a version")
        # A copy: the frame belongs to a message that would otherwise stay in memory with it.
        self._peer = frame_pb2.Hello.FromString(frame.hello.SerializeToString())
        self.takes_spans = self._incoming is not None and SPANS in self._peer.features
        self._events.hello(self._peer)

    def _on_ping(self, frame: frame_pb2.Frame) -> None:
        self._outbox.control(0, frame_pb2.Pong(nonce=frame.ping.nonce))

    def _on_drain(self, frame: frame_pb2.Frame) -> None:
        self._peer_drains = True
        self._events.drain()
