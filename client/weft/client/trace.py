"""The trace that a call belongs to, where the caller's program is traced by OpenTelemetry."""

from __future__ import annotations

import functools
from importlib import import_module
from typing import Any


def trace_headers() -> tuple[tuple[str, str], ...]:
    """`traceparent`, and `tracestate` if there is one, of the span that is current here (https://www.w3.org/TR/trace-context/);
    nothing if none is, or OpenTelemetry's API is not installed.
    """
    api = _opentelemetry()
    if api is None:
        return ()
    place = api.get_current_span().get_span_context()
    if not place.is_valid:
        return ()
    parent = ("traceparent", f"00-{place.trace_id:032x}-{place.span_id:016x}-{int(place.trace_flags):02x}")
    state = place.trace_state.to_header()
    return (parent, ("tracestate", state)) if state else (parent,)


@functools.cache
def _opentelemetry() -> Any:
    try:
        return import_module("opentelemetry.trace")
    except ImportError:
        return None
