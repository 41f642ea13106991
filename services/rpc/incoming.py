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
        calls = list(self.calls.values())
        self.calls.clear()
        for call in calls:
            call.abandon()

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
            del self.calls[frame.call]
            self.outbox.drop(call.lane)
            call.abandon()


class IncomingCall:
    """One call of the peer's; the `Receiver` of whoever computes its answer."""

    __slots__ = ("_call", "_calls", "_chunks", "_credit", "_open", "_size", "lane")

    def __init__(self, calls: IncomingCalls, lane: Lane, open_: frame_pb2.Open) -> None:
        self.lane = lane
        self._calls = calls
        self._open = open_
        self._chunks: list[bytes] = []
        self._size = 0
        self._call: Call | None = None
        self._credit = open_.credit  # granted by the peer, and not passed on yet

    # The request

    def body(self, chunk: bytes, *, complete: bool) -> None:
        """Takes in a piece of the request's body; the last one opens the call."""
        calls, limits = self._calls, self._calls.limits
        if self._call is not None:
            raise ProtocolViolationError(f"more body after its end on call {self.lane.call}")
        if chunk:
            self._chunks.append(chunk)
            self._size += len(chunk)
            calls.buffered_bodies += len(chunk)
        if self._size > limits.max_body:
            message = f"The request's body is larger than {limits.max_body} bytes."
            self.refuse(ServiceError(Reason.BODY_TOO_LARGE, message))
        elif complete:
            body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            self._forget_body()
            self._call = calls.serves.open(decode_request(self._open, body), self, self._allow())
        elif calls.buffered_bodies > limits.max_buffered_bodies:
            self.refuse(ServiceError(Reason.OVERLOADED, retry_after=1.0))
        elif chunk:
            calls.outbox.control(self.lane.call, Credit(len(chunk)))

    def _forget_body(self) -> None:
        self._calls.buffered_bodies -= self._size
        self._chunks = []
        self._size = 0

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
        self._calls.calls.pop(self.lane.call, None)
        self._calls.outbox.put(self.lane, END)

    def fail(self, error: ServiceError) -> None:
        """See `Receiver.fail`."""
        self._calls.calls.pop(self.lane.call, None)
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
        if self._calls.outbox.data_bytes >= self._calls.limits.outbox_soft:
            self._calls.withheld[self.lane.call] = self
            return 0
        credit, self._credit = self._credit, 0
        return min(credit, MAX_CREDIT)

    def abandon(self) -> None:
        """Stops the computation; nobody waits for the answer."""
        self._forget_body()
        if self._call is not None:
            self._call.cancel()
