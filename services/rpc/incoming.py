"""Calls that the peer opens here, and whose answers this end sends."""

from __future__ import annotations

from collections.abc import Callable

from weft.session.v1 import frame_pb2

from services.core.errors import Reason, ServiceError
from services.core.inference import Call, Head, Inference
from services.rpc.frames import END, Credit, decode_request
from services.rpc.limits import MAX_CREDIT, MuxLimits, ProtocolViolationError
from services.rpc.outbox import Lane, Outbox


class IncomingCalls:
    """The calls of the end that answers them, by number. `overflow` is called when the peer grants without reading."""

    def __init__(self, outbox: Outbox, serves: Inference, limits: MuxLimits, overflow: Callable[[], None]) -> None:
        self.outbox = outbox
        self.serves = serves
        self.limits = limits
        self.overflow = overflow
        self.calls: dict[int, IncomingCall] = {}
        self.withheld: dict[int, IncomingCall] = {}
        self.buffered_bodies = 0
        self._last = 0
        self.handlers = {
            "open": self._on_open,
            "data": self._on_data,
            "end": self._on_end,
            "credit": self._on_credit,
            "cancel": self._on_cancel,
        }

    def __len__(self) -> int:
        return len(self.calls)

    def release(self) -> None:
        """Gives out the credit that was withheld, if the outbox has room again."""
        if self.withheld and self.outbox.data_bytes < self.limits.outbox_soft:
            withheld, self.withheld = self.withheld, {}
            for call in withheld.values():
                call.release()

    def close(self) -> None:
        """Cancels every call: nobody is there any more to take its answer."""
        self.withheld.clear()
        while self.calls:
            _, call = self.calls.popitem()
            call.abandon()

    def forget(self, number: int) -> None:
        """The call has ended."""
        self.calls.pop(number, None)
        self.withheld.pop(number, None)

    def _find(self, number: int) -> IncomingCall | None:
        """The call; None if it has ended, as frames cross the end on their way."""
        if not 0 < number <= self._last:
            raise ProtocolViolationError(f"a frame for call {number}, which was never opened")
        return self.calls.get(number)

    def _on_open(self, frame: frame_pb2.Frame) -> None:
        if frame.call <= self._last:
            raise ProtocolViolationError(f"call {frame.call} opened out of turn")
        self._last = frame.call
        call = IncomingCall(self, Lane(frame.call), frame.open)
        if len(self.calls) >= self.limits.max_calls:
            call.refuse(ServiceError(Reason.OVERLOADED, retry_after=1.0))
            return
        self.calls[frame.call] = call
        call.body(frame.open.body, complete=frame.open.complete)

    def _on_data(self, frame: frame_pb2.Frame) -> None:
        if (call := self._find(frame.call)) is not None:
            call.body(frame.data, complete=False)

    def _on_end(self, frame: frame_pb2.Frame) -> None:
        if (call := self._find(frame.call)) is not None:
            call.body(b"", complete=True)

    def _on_credit(self, frame: frame_pb2.Frame) -> None:
        if (call := self._find(frame.call)) is not None:
            call.grant(frame.credit)

    def _on_cancel(self, frame: frame_pb2.Frame) -> None:
        if (call := self._find(frame.call)) is not None:
            self.forget(frame.call)
            self.outbox.drop(call.lane)
            call.abandon()


class IncomingCall:
    """One call of the peer's; the `Receiver` of whoever computes its answer."""

    __slots__ = ("_body", "_call", "_calls", "_credit", "_open", "lane")

    def __init__(self, calls: IncomingCalls, lane: Lane, open_: frame_pb2.Open) -> None:
        self.lane = lane
        self._calls = calls
        self._open: frame_pb2.Open | None = open_
        self._body = bytearray()  # not a list: chunks of one byte would cost forty times their size
        self._call: Call | None = None
        self._credit = open_.credit  # granted by the peer, and not passed on yet

    # The request

    def body(self, chunk: bytes, *, complete: bool) -> None:
        """Takes in a piece of the request's body; the last one opens the call."""
        calls, limits = self._calls, self._calls.limits
        if self._open is None:
            raise ProtocolViolationError(f"more body after its end on call {self.lane.call}")
        # Each chunk is granted anew as it comes, so a peer that keeps to its credit sends none that is larger.
        if len(chunk) > limits.body_credit:
            raise ProtocolViolationError(f"body beyond its credit on call {self.lane.call}")
        if len(self._body) + len(chunk) > limits.max_body:
            message = f"The request's body is larger than {limits.max_body} bytes."
            self.refuse(ServiceError(Reason.BODY_TOO_LARGE, message))
        elif complete:
            request = decode_request(self._open, b"".join((self._body, chunk)) if self._body else chunk)
            self._forget_body()
            self._open = None  # It would keep the whole message that it came in.
            self._call = calls.serves.open(request, self, self._allow())
        elif calls.buffered_bodies + len(chunk) > limits.max_buffered_bodies:
            self.refuse(ServiceError(Reason.OVERLOADED, retry_after=1.0))
        elif chunk:
            self._body += chunk
            calls.buffered_bodies += len(chunk)
            calls.outbox.control(self.lane.call, Credit(len(chunk)))

    def _forget_body(self) -> None:
        self._calls.buffered_bodies -= len(self._body)
        self._body = bytearray()

    # The answer

    def head(self, head: Head) -> None:
        """See `Receiver.head`."""
        self._calls.outbox.put(self.lane, head)

    def data(self, chunk: bytes) -> None:
        """See `Receiver.data`."""
        calls = self._calls
        calls.outbox.put(self.lane, chunk)
        if calls.outbox.data_bytes > calls.limits.outbox_hard:
            calls.overflow()

    def end(self) -> None:
        """See `Receiver.end`."""
        self._calls.forget(self.lane.call)
        self._calls.outbox.put(self.lane, END)

    def fail(self, error: ServiceError) -> None:
        """See `Receiver.fail`."""
        self._calls.forget(self.lane.call)
        self._calls.outbox.put(self.lane, error)

    def refuse(self, error: ServiceError) -> None:
        """Ends a call that was not started."""
        self._forget_body()
        self.fail(error)

    # The peer's say

    def grant(self, credit: int) -> None:
        """The peer takes so many bytes more of the answer."""
        self._credit += credit
        self.release()

    def release(self) -> None:
        """Passes credit on, unless too much waits to be sent already."""
        if self._call is not None and self.lane.call in self._calls.calls and (credit := self._allow()):
            self._call.grant(credit)

    def _allow(self) -> int:
        calls = self._calls
        full = calls.outbox.data_bytes >= calls.limits.outbox_soft
        allowed = 0 if full else min(self._credit, MAX_CREDIT)
        self._credit -= allowed
        if self._credit:  # `release` passes the rest on, as the outbox empties.
            calls.withheld[self.lane.call] = self
        return allowed

    def abandon(self) -> None:
        """Stops the computation; nobody waits for the answer."""
        self._forget_body()
        if self._call is not None:
            self._call.cancel()
