"""OTLP that others send, as spans: what a vLLM tells of a call, relayed by its worker."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as PbSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from services.core.tracing import Attributes, AttributeValue, Event, Kind, Span, TraceContext
from services.core.weft_attributes import ERROR_TYPE

MOST: Final = 128
"""Attributes of a span, and events, as many as the SDK's own limit; the others are left out."""
LONGEST: Final = 4096
"""Characters of a text."""
LARGEST: Final = 16 * 1024
"""Bytes of a span: thousands may wait in memory. vLLM's have 700."""

_KINDS: Final[Mapping[int, Kind]] = {kind.value: kind for kind in Kind}


def spans_of(payload: bytes, service: str, resource: Attributes) -> Iterator[Span]:
    """The spans of an `ExportTraceServiceRequest`, as those of that service and resource: what the sender says of
    itself is not believed. Made one by one, so that whoever has enough of them need not make the others; what is too
    much of one is left out. Raises ValueError for what is no such message, and at a span without ids, or too large:
    whoever passed over a million of them would do nothing else meanwhile.
    """
    try:
        request = ExportTraceServiceRequest.FromString(payload)
    except DecodeError as error:
        raise ValueError("not an ExportTraceServiceRequest of OTLP") from error
    return (
        _span(span, service, resource)
        for of_resource in islice(request.resource_spans, MOST)
        for scope in islice(of_resource.scope_spans, MOST)
        for span in scope.spans
    )


def _span(span: PbSpan, service: str, resource: Attributes) -> Span:
    if len(span.trace_id) != 16 or len(span.span_id) != 8 or not any(span.trace_id) or not any(span.span_id):
        raise ValueError("a span without ids")
    if span.ByteSize() > LARGEST:
        raise ValueError("a span that is too large")
    attributes = _attributes(span.attributes)
    state = span.trace_state if len(span.trace_state) <= 512 else ""
    return Span(
        context=TraceContext.of(span.trace_id.hex(), span.span_id.hex(), True, state),
        parent_id=span.parent_span_id.hex() if len(span.parent_span_id) == 8 and any(span.parent_span_id) else "",
        name=span.name[:LONGEST],
        service=service,
        kind=_KINDS.get(span.kind, Kind.INTERNAL),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=attributes,
        events=tuple(
            Event(event.name[:LONGEST], event.time_unix_nano, _attributes(event.attributes))
            for event in islice(span.events, MOST)
        ),
        error=_error(span.status, attributes),
        resource=resource,
    )


def _error(status: Status, attributes: Attributes) -> str:
    if status.code != Status.STATUS_CODE_ERROR:
        return ""
    return status.message[:LONGEST] or str(attributes.get(ERROR_TYPE, "error"))


def _attributes(pairs: Iterable[KeyValue]) -> Attributes:
    return dict(_known(islice(pairs, MOST)))


def _known(pairs: Iterable[KeyValue]) -> Iterator[tuple[str, AttributeValue]]:
    for pair in pairs:
        value = _value(pair.value)
        if value is not None:
            yield pair.key[:LONGEST], value


def _value(value: AnyValue) -> AttributeValue | None:
    """None for what has no place in a `Span`: bytes, and trees."""
    if value.WhichOneof("value") == "array_value":
        scalars = map(_scalar, islice(value.array_value.values, MOST))
        return tuple(str(one) for one in scalars if one is not None)
    return _scalar(value)


def _scalar(value: AnyValue) -> str | bool | int | float | None:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value[:LONGEST]
        case "bool_value":
            return value.bool_value
        case "int_value":
            return value.int_value
        case "double_value":
            number = value.double_value
            return number if math.isfinite(number) else str(number)  # JSON has no others
        case _:
            return None
