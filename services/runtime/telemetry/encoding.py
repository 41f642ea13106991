"""Weft's spans as OTLP, as OpenTelemetry's SDK would encode them, in a quarter of the time: a kept call has four of
them, and they are encoded on the processor that carries the calls.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, SpanFlags, Status
from opentelemetry.proto.trace.v1.trace_pb2 import Span as PbSpan
from opentelemetry.sdk.resources import OTELResourceDetector

from services.core.tracing import Attributes, AttributeValue, Kind, Span

_VERSION: Final = version("weft")
_OURS: Final = frozenset({"facade", "router", "auth", "registry", "launcher", "function", "worker", "envoy"})
_LOCAL: Final = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE: Final = _LOCAL | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_FROM_OUTSIDE: Final = (Kind.SERVER, Kind.CONSUMER)
"""Kinds of spans whose parents are in another process."""
_NOT_ENCODED: Final = (ValueError, TypeError)
"""What protobuf says of an integer of more than 64 bits, of half a surrogate pair, of a type that it does not know."""


def encode(spans: Iterable[Span]) -> ExportTraceServiceRequest:
    """The spans, as they are exported: also an error's, whose trace was not sampled. An attribute that cannot be
    encoded is left out.
    """
    request = ExportTraceServiceRequest()
    scopes: dict[tuple[str, tuple[tuple[str, AttributeValue], ...]], ScopeSpans] = {}
    for span in spans:
        process = (span.service, tuple(span.resource.items()))
        scope = scopes.get(process)
        if scope is None:
            of_process = request.resource_spans.add()
            _add(of_process.resource.attributes, _resource(*process))
            scope = scopes[process] = of_process.scope_spans.add()
            scope.scope.name, scope.scope.version = "weft", _VERSION
        _add_span(scope, span)
    return request


def _add_span(scope: ScopeSpans, span: Span) -> None:
    place = span.context.packed
    encoded = scope.spans.add(
        trace_id=place[:16],
        span_id=place[16:24],
        trace_state=span.context.state,
        parent_span_id=bytes.fromhex(span.parent_id),
        name=span.name,
        kind=PbSpan.SpanKind.ValueType(span.kind),
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=span.end_ns,
        flags=_REMOTE if span.parent_id and span.kind in _FROM_OUTSIDE else _LOCAL,
    )
    _add(encoded.attributes, span.attributes)
    for event in span.events:
        _add(encoded.events.add(name=event.name, time_unix_nano=event.time_ns).attributes, event.attributes)
    if span.error:
        encoded.status.code, encoded.status.message = Status.STATUS_CODE_ERROR, span.error


def _add(pairs: Any, attributes: Attributes) -> None:
    for key, value in attributes.items():
        pair = pairs.add()
        try:
            pair.key = key
            _set(pair.value, value)
        except _NOT_ENCODED:
            del pairs[-1]


def _set(encoded: Any, value: AttributeValue) -> None:
    if isinstance(value, str):
        encoded.string_value = value
    elif isinstance(value, bool):  # before the numbers, of which Python has it be one
        encoded.bool_value = value
    elif isinstance(value, int):
        encoded.int_value = value
    elif isinstance(value, float):
        encoded.double_value = value
    else:
        encoded.array_value.SetInParent()
        for one in value:
            encoded.array_value.values.add().string_value = one


@functools.lru_cache(maxsize=1024)
def _resource(service: str, more: tuple[tuple[str, AttributeValue], ...]) -> Attributes:
    """The process that a span is of: this one, or where `more` is told, another, of which nothing else is known."""
    name = {"service.name": f"weft-{service}" if service in _OURS else service}
    return {**name, **dict(more)} if more else {**_own(), **name}


@functools.cache
def _own() -> dict[str, AttributeValue]:
    """This process, with what OTEL_RESOURCE_ATTRIBUTES says of it, the only variable of OpenTelemetry's that counts."""
    host = socket.gethostname()
    said = {key: str(value) for key, value in OTELResourceDetector().detect().attributes.items()}
    return {**said, "service.instance.id": f"{host}:{os.getpid()}", "service.version": _VERSION, "host.name": host}
