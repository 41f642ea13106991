"""Spans as they travel from a worker to its router, and back into the domain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from weft.session.v1 import span_pb2

from services.core.tracing import Attributes, AttributeValue, Event, Kind, Span, TraceContext

LARGEST: Final = 16 * 1024
"""Bytes of a span: thousands may wait in memory."""
_LONGEST_STATE: Final = 512
_MOST_ATTRIBUTES: Final = 64
_MOST_EVENTS: Final = 32
_KINDS: Final = {kind.value: kind for kind in Kind}


def add_span(spans: span_pb2.Spans, span: Span) -> None:
    """Adds a span of this worker's. Its service and resource do not travel: the router knows whose it is."""
    context = span.context
    spans.spans.add(
        trace_id=bytes.fromhex(context.trace_id),
        span_id=bytes.fromhex(context.span_id),
        parent_span_id=bytes.fromhex(span.parent_id),
        trace_state=context.state,
        name=span.name,
        kind=span.kind,
        start_time_unix_nano=span.start_ns,
        end_time_unix_nano=span.end_ns,
        attributes=_to_protos(span.attributes),
        events=[
            span_pb2.SpanEvent(name=event.name, time_unix_nano=event.time_ns, attributes=_to_protos(event.attributes))
            for event in span.events
        ],
        error=span.error,
    )


def read_span(proto: span_pb2.Span, *, service: str, resource: Attributes) -> Span:
    """A span that a worker sent, of which the router says whose it is. Workers are others' machines: raises ValueError
    for ids that are none, and for a span that is too large; leaves out what is too many.
    """
    if len(proto.trace_id) != 16 or len(proto.span_id) != 8 or len(proto.parent_span_id) not in (0, 8):
        raise ValueError("a span with ids of another length")
    if not any(proto.trace_id) or not any(proto.span_id):
        raise ValueError("a span without ids")
    if proto.ByteSize() > LARGEST:
        raise ValueError("a span that is too large")
    return Span(
        # Whoever sent it has kept it, sampled or not.
        context=TraceContext.of(
            proto.trace_id.hex(),
            proto.span_id.hex(),
            True,
            proto.trace_state if len(proto.trace_state) <= _LONGEST_STATE else "",
        ),
        parent_id=proto.parent_span_id.hex() if any(proto.parent_span_id) else "",
        name=proto.name,
        service=service,
        kind=_KINDS.get(proto.kind, Kind.INTERNAL),
        start_ns=proto.start_time_unix_nano,
        end_ns=proto.end_time_unix_nano,
        attributes=_from_protos(proto.attributes),
        events=tuple(
            Event(event.name, event.time_unix_nano, _from_protos(event.attributes))
            for event in proto.events[:_MOST_EVENTS]
        ),
        error=proto.error,
        resource=resource,
    )


def _to_protos(attributes: Attributes) -> list[span_pb2.Attribute]:
    return [_to_proto(name, value) for name, value in attributes.items()]


def _to_proto(name: str, value: AttributeValue) -> span_pb2.Attribute:
    if isinstance(value, str):
        return span_pb2.Attribute(name=name, text=value)
    if isinstance(value, bool):  # before int, of which it is one
        return span_pb2.Attribute(name=name, truth=value)
    if isinstance(value, int):
        return span_pb2.Attribute(name=name, number=value)
    if isinstance(value, float):
        return span_pb2.Attribute(name=name, real=value)
    return span_pb2.Attribute(name=name, texts=span_pb2.Texts(values=value))


def _from_protos(attributes: Sequence[span_pb2.Attribute]) -> dict[str, AttributeValue]:
    return {attribute.name: _from_proto(attribute) for attribute in attributes[:_MOST_ATTRIBUTES]}


def _from_proto(attribute: span_pb2.Attribute) -> AttributeValue:
    match attribute.WhichOneof("value"):
        case "number":
            return attribute.number
        case "real":
            return attribute.real if math.isfinite(attribute.real) else str(attribute.real)  # JSON has no others
        case "truth":
            return attribute.truth
        case "texts":
            return tuple(attribute.texts.values)
        case _:
            return attribute.text
