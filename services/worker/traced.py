"""What this worker did for each call, as a span between the router's and vLLM's."""

from __future__ import annotations

import time
from typing import Final, Protocol

import msgspec

from services.core.errors import ServiceError
from services.core.gen_ai import OPERATION, operation_name
from services.core.inference import Call, Head, Inference, Receiver, Request
from services.core.tracing import (
    AttributeValue,
    Event,
    Kind,
    Sampling,
    Span,
    TraceContext,
    Tracer,
    current,
    parent_in,
)
from services.core.weft_attributes import ERROR_TYPE, HTTP_STATUS, OUTCOME

FOLLOWS: Final = Sampling(ratio=0.0)
"""A worker decides nothing: its router has sampled a call or not. What fails here is kept in any case."""

_SERVER_ERRORS: Final = 500


class Wanted(Protocol):
    """Whoever takes spans, or nobody at present."""

    @property
    def wanted(self) -> bool:
        """Whether spans that are made now have somewhere to go."""


class TracedInference:
    """An `Inference` whose calls become spans, while they are wanted. vLLM is told of each span as its parent; while
    none is wanted, the caller's own headers travel as they came.
    """

    def __init__(self, inference: Inference, tracer: Tracer, outlet: Wanted) -> None:
        self._inference = inference
        self._tracer = tracer
        self._outlet = outlet

    def open(self, request: Request, receiver: Receiver, credit: int) -> Call:
        """See `Inference.open`."""
        if not self._outlet.wanted:
            return self._inference.open(request, receiver, credit)
        parent = parent_in(request)
        context = self._tracer.follow(parent)
        traced = _TracedCall(self._tracer, context, parent.span_id if parent else "", request.operation, receiver)
        further = msgspec.structs.replace(request, trace=context)
        outside = current.set(context)  # what logs in the course of the call then names it
        try:
            traced.call = self._inference.open(further, traced, credit)
        finally:
            current.reset(outside)
        return traced


class _TracedCall:
    """One call: the `Receiver` of whoever answers it, and the `Call` of whoever opened it."""

    __slots__ = (
        "_context",
        "_first",
        "_head",
        "_operation",
        "_parent",
        "_receiver",
        "_start",
        "_status",
        "_tracer",
        "call",
    )

    def __init__(self, tracer: Tracer, context: TraceContext, parent: str, operation: str, receiver: Receiver) -> None:
        self.call: Call
        self._tracer = tracer
        self._context = context
        self._parent = parent
        self._operation = operation
        self._receiver: Receiver | None = receiver
        self._start = time.time_ns()
        self._head = 0
        self._status = 0
        self._first = 0

    # The answer

    def head(self, head: Head) -> None:
        """See `Receiver.head`."""
        self._head = time.time_ns()
        self._status = head.status
        if self._receiver is not None:
            self._receiver.head(head)

    def data(self, chunk: bytes) -> None:
        """See `Receiver.data`."""
        if not self._first:
            self._first = time.time_ns()
        if self._receiver is not None:
            self._receiver.data(chunk)

    def end(self) -> None:
        """See `Receiver.end`."""
        receiver = self._ended(str(self._status) if self._status >= _SERVER_ERRORS else "", "end")
        if receiver is not None:
            receiver.end()

    def fail(self, error: ServiceError) -> None:
        """See `Receiver.fail`."""
        receiver = self._ended(error.reason.name.lower(), "")
        if receiver is not None:
            receiver.fail(error)

    # The caller's say

    def grant(self, credit: int) -> None:
        """See `Call.grant`."""
        self.call.grant(credit)

    def cancel(self) -> None:
        """See `Call.cancel`."""
        self._ended("", "cancelled")
        self.call.cancel()

    def _ended(self, error: str, how: str) -> Receiver | None:
        """Makes the span, if it is kept; gives the receiver the first time, and None from then on."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None and self._tracer.keeps(self._context, failed=bool(error)):
            self._tracer.record(self._span(error, how))
        return receiver

    def _span(self, error: str, how: str) -> Span:
        now = time.time_ns()
        operation = operation_name(self._operation)
        attributes: dict[str, AttributeValue] = {OPERATION: operation, OUTCOME: error or "ok"}
        if how == "cancelled":
            attributes[OUTCOME] = how
        if self._status:
            attributes[HTTP_STATUS] = self._status
        if error:
            attributes[ERROR_TYPE] = error
        moments = (("head", self._head), ("first byte", self._first), (how, now if how else 0))
        return Span(
            context=self._context,
            parent_id=self._parent,
            name=f"serve {operation}",
            service="worker",
            kind=Kind.SERVER,
            start_ns=self._start,
            end_ns=now,
            attributes=attributes,
            events=tuple(Event(name, at) for name, at in moments if at),
            error=error,
        )
