"""RPCs between the parts of the mesh, as spans of the calls in whose course they are made.

Of an RPC that belongs to no trace none is made: routers repeat theirs every few seconds, and whoever looked for a call
would look through those. Streams are none either, as they live for days; nor are the RPCs that carry calls to models,
which the router tells of itself (https://opentelemetry.io/docs/specs/semconv/rpc/grpc/).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final

import grpc

from services.core import tracing, weft_attributes
from services.core.errors import ServiceError
from services.core.inference import Headers
from services.core.tracing import AttributeValue, Span, TraceContext, Tracer
from services.rpc.acts import Kind, kind_of

PER_SECOND: Final = 100.0
"""Spans. Whoever may ask a service at all may say that it is traced, and is not to fill the way to the collector."""

_NOT_OURS: Final = "/grpc."
"""Health and reflection, which are asked for again and again."""
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_AT_FAULT: Final = frozenset(
    {
        *(grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNIMPLEMENTED),
        *(grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS),
    }
)
"""The codes by which the server has failed, by OpenTelemetry's conventions. The others say that its caller has."""


class RpcTraces:
    """Makes the spans of the RPCs that `service` answers."""

    def __init__(
        self, tracer: Tracer, service: str, *, clock: Callable[[], int] = time.time_ns, per_second: float = PER_SECOND
    ) -> None:
        """`clock` gives nanoseconds since 1970."""
        self._tracer = tracer
        self._service = service
        self._clock = clock
        self._allowance = tracing.Allowance(per_second)

    def of(self, method: str, metadata: Iterable[tuple[str, str | bytes]], context: Any) -> RpcTrace | Untraced:
        """What to serve an RPC within, of a unary method that is given by its full name."""
        if method.startswith(_NOT_OURS) or kind_of(method) is Kind.CALLS:
            return UNTRACED
        parent = tracing.parent_of(_texts(metadata))
        return UNTRACED if parent is None else RpcTrace(self, method, parent, context)

    def now(self) -> int:
        """In nanoseconds since 1970."""
        return self._clock()

    def follow(self, parent: TraceContext) -> TraceContext:
        """The place of an RPC's span."""
        return self._tracer.follow(parent)

    def ended(self, trace: RpcTrace, code: grpc.StatusCode, reason: str) -> None:
        """An RPC has ended with a gRPC status, for a reason if it is an error."""
        error = reason if code in _AT_FAULT else ""
        if not self._tracer.keeps(trace.place, failed=bool(error)) or not self._allowance.take():
            return
        service, _, method = trace.method.strip("/").partition("/")
        attributes: dict[str, AttributeValue] = {
            weft_attributes.RPC_SYSTEM: "grpc",
            weft_attributes.RPC_SERVICE: service,
            weft_attributes.RPC_METHOD: method,
            weft_attributes.RPC_STATUS: code.value[0],
        }
        if code is grpc.StatusCode.CANCELLED:
            attributes[weft_attributes.OUTCOME] = "cancelled"
        self._tracer.record(
            Span(
                context=trace.place,
                parent_id=trace.parent.span_id,
                name=trace.method.strip("/"),
                service=self._service,
                kind=tracing.Kind.SERVER,
                start_ns=trace.begun,
                end_ns=self._clock(),
                attributes=attributes,
                error=error,
            )
        )


def traces_of(tracer: Tracer | None, service: str) -> RpcTraces | None:
    """Those of a service; None where nothing is traced."""
    return None if tracer is None else RpcTraces(tracer, service)


class RpcTrace:
    """One RPC. Inside of `with`, `tracing.current` is its span's place."""

    __slots__ = ("_context", "_error", "_token", "_traces", "begun", "method", "parent", "place")

    def __init__(self, traces: RpcTraces, method: str, parent: TraceContext, context: Any) -> None:
        self.method = method
        self.parent = parent
        self.place = traces.follow(parent)
        self.begun = traces.now()
        self._traces = traces
        self._context = context
        self._error: ServiceError | None = None

    def failed(self, error: ServiceError) -> None:
        """It ends with this error."""
        self._error = error

    def __enter__(self) -> RpcTrace:
        self._token = tracing.current.set(self.place)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tracing.current.reset(self._token)
        code = self._code(error)
        self._traces.ended(self, code, (self._error.reason if self._error is not None else code).name.lower())

    def _code(self, error: BaseException | None) -> grpc.StatusCode:
        if self._error is not None:
            return _CODES[self._error.kind.grpc.value]
        if isinstance(error, asyncio.CancelledError):
            # gRPC cancels a handler in either case, and does not tell which it is.
            left = self._context.time_remaining()
            late = left is not None and left <= 0
            return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
        code = self._context.code()  # a handler's own, where it has set one
        return code if isinstance(code, grpc.StatusCode) else _CODES[code or 0]


class Untraced(contextlib.nullcontext[Any]):
    """For an RPC of which no span is made."""

    def failed(self, error: ServiceError) -> None:
        """Says nothing."""

    def __enter__(self) -> Untraced:
        return self


UNTRACED: Final = Untraced()


def _texts(metadata: Iterable[tuple[str, str | bytes]]) -> Headers:
    return tuple([(key, value) for key, value in metadata or () if isinstance(value, str)])
