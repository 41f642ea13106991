"""Weft's spans as OpenTelemetry's SDK has them, for its exporters."""

from __future__ import annotations

import functools
import os
import socket
from importlib.metadata import version
from typing import Final

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from services.core.tracing import AttributeValue, Kind, Span

_VERSION: Final = version("weft")
_SCOPE: Final = InstrumentationScope("weft", _VERSION)
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_KINDS: Final = {
    Kind.INTERNAL: SpanKind.INTERNAL,
    Kind.SERVER: SpanKind.SERVER,
    Kind.CLIENT: SpanKind.CLIENT,
    Kind.PRODUCER: SpanKind.PRODUCER,
    Kind.CONSUMER: SpanKind.CONSUMER,
}
_OURS: Final = frozenset({"facade", "router", "auth", "registry", "launcher", "function", "worker", "envoy"})


def readable(span: Span) -> ReadableSpan:
    """The span, as one that is exported: also an error's, whose trace was not sampled."""
    trace_id = int(span.context.trace_id, 16)
    state = TraceState.from_header([span.context.state]) if span.context.state else None
    context = SpanContext(trace_id, int(span.context.span_id, 16), is_remote=False, trace_flags=_SAMPLED)
    if state is not None:
        context = SpanContext(trace_id, context.span_id, is_remote=False, trace_flags=_SAMPLED, trace_state=state)
    parent = None
    if span.parent_id:
        remote = span.kind in (Kind.SERVER, Kind.CONSUMER)
        parent = SpanContext(trace_id, int(span.parent_id, 16), is_remote=remote, trace_flags=_SAMPLED)
    return ReadableSpan(
        name=span.name,
        context=context,
        parent=parent,
        resource=_resource(span.service, tuple(span.resource.items())),
        attributes=span.attributes,
        events=[Event(event.name, event.attributes, event.time_ns) for event in span.events],
        kind=_KINDS[span.kind],
        instrumentation_scope=_SCOPE,
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
        start_time=span.start_ns,
        end_time=span.end_ns,
    )


@functools.lru_cache(maxsize=1024)
def _resource(service: str, more: tuple[tuple[str, AttributeValue], ...]) -> Resource:
    """The process that a span is of: this one, or where `more` is told, another, of which nothing else is known."""
    name = {"service.name": f"weft-{service}" if service in _OURS else service}
    return Resource({**name, **dict(more)} if more else {**_own(), **name})


@functools.cache
def _own() -> dict[str, AttributeValue]:
    """This process, with what OTEL_RESOURCE_ATTRIBUTES says of it, the only variable of OpenTelemetry's that counts."""
    host = socket.gethostname()
    said = {key: str(value) for key, value in OTELResourceDetector().detect().attributes.items()}
    return {**said, "service.instance.id": f"{host}:{os.getpid()}", "service.version": _VERSION, "host.name": host}
