"""Calls that this end opens at its peer, and whose answers it receives."""

from __future__ import annotations

from weft.session.v1 import frame_pb2

from services.core.errors import ServiceError
from services.core.inference import Head, Receiver, Request
from services.rpc.errors import from_proto
from services.rpc.frames import CANCEL, END, Credit, Opening, decode_head
from services.rpc.limits import INLINE_BODY_BYTES, ProtocolViolationError
from services.rpc.outbox import Lane, Outbox


class OutgoingCalls:
    """The calls of the end that opens them, by number."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._calls: dict[int, OutgoingCall] = {}
        self._last = 0
        self.handlers = {
            "head": self._on_head,
            "data": self._on_data,
            "end": self._on_end,
            "error": self._on_error,
            "credit": self._on_credit,
        }

    def __len__(self) -> int:
        return len(self._calls)

    def open(self, request: Request, receiver: Receiver, credit: int, body_credit: int) -> OutgoingCall:
        """Opens a call; the peer lets us send `body_credit` bytes of its body at first."""
        self._last += 1
        call = OutgoingCall(self._outbox, self._calls, Lane(self._last), receiver, request.body, credit)
        self._calls[self._last] = call
        call.begin(request, body_credit)
        return call

    def close(self, error: ServiceError) -> None:
        """Ends every call with the error."""
        while self._calls:  # One at a time: a receiver that hears of it may cancel its other calls.
            _, call = self._calls.popitem()
            call.lose(error)

    def _find(self, number: int) -> OutgoingCall | None:
        """The call; None if it has ended, as frames cross the end on their way."""
        if not 0 < number <= self._last:
            raise ProtocolViolationError(f"an answer to call {number}, which was never opened")
        return self._calls.get(number)

    def _on_head(self, frame: frame_pb2.Frame) -> None:
        if (call := self._find(frame.call)) is not None:
            call.on_head(decode_head(frame.head))

    def _on_data(self, frame: frame_pb2.Frame) -> None:
        if (call := self._find(frame.call)) is not None:
            call.on_data(frame.data)

    def _on_end(self, frame: frame_pb2.Frame) -> None:
        if (call := self._find(frame.call)) is not None:
            call.on_end()

    def _on_error(self, frame: frame_pb2.Frame) -> None:
        if (call := self._find(frame.call)) is not None:
            call.on_error(from_proto(frame.error))

    def _on_credit(self, frame: frame_pb2.Frame) -> None:
        if (call := self._find(frame.call)) is not None:
            call.send_body(frame.credit)


class OutgoingCall:
    """One call that we opened; a `Call` to whoever asked for it."""

    __slots__ = ("_answered", "_body", "_calls", "_credit", "_lane", "_outbox", "_receiver", "_sent")

    def __init__(
        self,
        outbox: Outbox,
        calls: dict[int, OutgoingCall],
        lane: Lane,
        receiver: Receiver,
        body: bytes,
        credit: int,
    ) -> None:
        self._outbox = outbox
        self._calls = calls
        self._lane = lane
        self._receiver = receiver
        self._body = body
        self._sent = 0
        self._credit = credit
        self._answered = False

    def begin(self, request: Request, body_credit: int) -> None:
        """Sends the opening, and what of the body the first credit allows."""
        inline = min(len(request.body), INLINE_BODY_BYTES, body_credit)
        self._sent = inline
        self._outbox.put(self._lane, Opening(request, inline, self._credit))
        self.send_body(body_credit - inline)

    def send_body(self, credit: int) -> None:
        """The peer takes so many bytes more of the request's body."""
        remaining = len(self._body) - self._sent
        if remaining <= 0 or credit <= 0:
            return
        chunk = self._body[self._sent : self._sent + credit]
        self._sent += len(chunk)
        self._outbox.put(self._lane, chunk)
        if len(chunk) == remaining:
            self._outbox.put(self._lane, END)

    def grant(self, credit: int) -> None:
        """See `Call.grant`."""
        if self._lane.call not in self._calls:
            return
        self._credit += credit
        if self._lane.started:
            self._outbox.control(self._lane.call, Credit(credit))
        else:  # Ahead of the frame that opens the call, the peer would take it for a breach of the protocol.
            self._outbox.put(self._lane, Credit(credit))

    def cancel(self) -> None:
        """See `Call.cancel`."""
        if self._calls.pop(self._lane.call, None) is None:
            return
        self._outbox.drop(self._lane)
        if self._lane.started:
            self._outbox.control(self._lane.call, CANCEL)

    def hand_over(self, receiver: Receiver) -> None:
        """Another takes the rest of the answer."""
        self._receiver = receiver

    def on_head(self, head: Head) -> None:
        if self._answered:
            raise ProtocolViolationError(f"a second head on call {self._lane.call}")
        if not 200 <= head.status <= 599:
            raise ProtocolViolationError(f"a head with status {head.status} on call {self._lane.call}")
        self._answered = True
        self._receiver.head(head)

    def on_data(self, chunk: bytes) -> None:
        self._credit -= len(chunk)
        if self._credit < 0 or not self._answered:
            raise ProtocolViolationError(f"data beyond its credit, or before the head, on call {self._lane.call}")
        self._receiver.data(chunk)

    def on_end(self) -> None:
        if not self._answered:
            raise ProtocolViolationError(f"an end before the head on call {self._lane.call}")
        self._finish()
        self._receiver.end()

    def on_error(self, error: ServiceError) -> None:
        self._finish()
        self._receiver.fail(error)

    def lose(self, error: ServiceError) -> None:
        self._receiver.fail(error)

    def _finish(self) -> None:
        del self._calls[self._lane.call]
        self._outbox.drop(self._lane)  # What is left of the request's body interests nobody any more.
