"""The span of an HTTP request: what it notes while it is answered, and what is made of that at its end."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from services.core import weft_attributes
from services.core.errors import CATALOGUE, Reason
from services.core.inference import Headers
from services.core.tracing import AttributeValue, Event, Kind, Span, TraceContext, Tracer, parent_of
from services.facade.routes import POSTED

SERVICE: Final = "facade"
LEFT: Final = 499
"""Where the client has left, as nginx calls it; nobody has seen this status."""
_OTHER: Final = "other"


class RequestTrace(msgspec.Struct, gc=False):
    """The notes. Times are in nanoseconds since 1970, 0 for what has not happened. `error` is the reason that the
    client was told, or would have been. No exception: its traceback would hold the request, and these notes with it,
    for ever.
    """

    tracer: Tracer
    context: TraceContext
    parent_id: str
    started: int
    first_byte: int = 0
    left: int = 0
    error: Reason | None = None

    def begin_answer(self) -> None:
        """The answer goes out."""
        self.first_byte = time.time_ns()

    def leave(self) -> None:
        """The client has left."""
        self.left = time.time_ns()

    def finish(self, operation: str, status: int, request_id: bytes) -> None:
        """The request has been answered, or its client has left: makes and hands on the span, if it is kept."""
        error = self.error
        if error is None and status < 500 and not self.context.sampled:
            return  # as most
        failed = status >= 500 or (error is not None and CATALOGUE[error].http >= 500)
        if self.tracer.keeps(self.context, failed=failed, refused=error is not None):
            self.tracer.record(self._span(operation, status, request_id, failed=failed))

    def _span(self, operation: str, status: int, request_id: bytes, *, failed: bool) -> Span:
        # Of the paths that clients make up there are any number.
        route = operation if operation in POSTED else _OTHER
        attributes: dict[str, AttributeValue] = {
            weft_attributes.HTTP_METHOD: "POST",
            weft_attributes.HTTP_ROUTE: route,
            weft_attributes.HTTP_STATUS: status,
            weft_attributes.REQUEST_ID: request_id.decode(),
        }
        wrong = "" if self.error is None else self.error.name.lower()
        if not wrong and status >= 500:
            wrong = str(status)
        if wrong:
            attributes[weft_attributes.ERROR_TYPE] = wrong
        if status == LEFT:
            attributes[weft_attributes.OUTCOME] = "cancelled"
        return Span(
            context=self.context,
            parent_id=self.parent_id,
            name=f"POST {route}",
            service=SERVICE,
            kind=Kind.SERVER,
            start_ns=self.started,
            end_ns=time.time_ns(),
            attributes=attributes,
            events=tuple(Event(name, at) for name, at in (("first byte", self.first_byte), ("left", self.left)) if at),
            # What is the client's own doing is no error of a server's span, by OpenTelemetry's conventions for HTTP.
            error=wrong if failed else "",
        )


def trace(tracer: Tracer, headers: Headers, own_id: str) -> RequestTrace:
    """The notes of a request that has come with these headers. `own_id` is its id if that is one that the facade has
    made: a trace that begins here has the same, so that the one leads to the other.
    """
    started = time.time_ns()
    parent = parent_of(headers)
    return RequestTrace(tracer, tracer.enter(parent, own_id), "" if parent is None else parent.span_id, started)
