"""Counts the RPCs that a server answers: by method, which is one of its own services', and by status."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc

from services.core.measures import Counts, Family, Histograms
from services.rpc.handlers import Handler, behaviour_of, replaced

_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_NAMES: Final = {code.value[0]: code.name for code in grpc.StatusCode}


class RpcMeter(grpc.aio.ServerInterceptor):  # type: ignore[misc, unused-ignore]
    """Notes each RPC of one service; it is to come before the interceptors that may refuse. A method is known when a
    servicer has it: what callers invent has no handler, and is not counted.
    """

    def __init__(self, service: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._clock = clock
        self._calls = Counts(
            "weft_rpc_server_calls_total",
            "RPCs that ended, by method and gRPC status.",
            ("service", "method", "code"),
        )
        self._seconds = Histograms(
            "weft_rpc_server_duration_seconds",
            "How long RPCs with one answer took; streams, which last as long as their callers want, are not in it.",
            ("service", "method"),
            bounds=_BOUNDS,
        )

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Puts the counting around whatever handler serves the method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        serve = behaviour_of(handler)
        counted = self._streaming(method, serve) if handler.response_streaming else self._unary(method, serve)
        return replaced(handler, counted, handler.request_deserializer)

    def families(self) -> Iterable[Family]:
        """What there is to show."""
        return (self._calls.family(), self._seconds.family())

    def _unary(self, method: str, serve: Any) -> Any:
        async def counted(request: Any, context: Any) -> Any:
            began = self._clock()
            with self._counting(method, context):
                answer = await serve(request, context)
            self._seconds.at(self._service, method).observe(self._clock() - began)
            return answer

        return counted

    def _streaming(self, method: str, serve: Any) -> Any:
        async def counted(request: Any, context: Any) -> AsyncIterator[Any]:
            with self._counting(method, context):
                answer = serve(request, context)
                if hasattr(answer, "__aiter__"):
                    async for message in answer:
                        yield message
                else:  # a handler that reads and writes by its context
                    await answer

        return counted

    @contextmanager
    def _counting(self, method: str, context: Any) -> Iterator[None]:
        code = "CANCELLED"  # whoever asked has left, or the time that they gave is up: neither tells a status
        try:
            yield
            code = _status(context)
        except grpc.aio.AbortError:
            code = _status(context)
            raise
        except Exception:
            code = grpc.StatusCode.UNKNOWN.name  # as gRPC tells it
            raise
        finally:
            self._calls.at(self._service, method, code).value += 1


def _status(context: Any) -> str:
    """What a handler has set, else OK. gRPC gives it as a number, or as it was set."""
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _NAMES.get(code or 0, grpc.StatusCode.UNKNOWN.name)
