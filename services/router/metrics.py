"""The router's metrics. Labels come from bounded sets: a client cannot make new series by inventing names."""

from __future__ import annotations

import functools
import logging
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from services.core.errors import CATALOGUE
from services.router.dispatcher import FinishedCall

log = logging.getLogger(__name__)

_OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/messages": "messages",
    "/v1/responses": "responses",
}
_FAULTS: Final = {reason.name.lower() for reason, kind in CATALOGUE.items() if kind.http >= 500}
"""What an operator is to hear of. Callers' own mistakes and limits stand in the records of usage: who asks on and on
would fill the log.
"""
_SECONDS: Final = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

CALLS = Counter("weft_router_calls", "Calls that ended.", ("operation", "outcome"))
ATTEMPTS = Counter("weft_router_attempts", "Attempts at servers.", ("operation",))
DURATION = Histogram("weft_router_call_duration_seconds", "From open to end.", ("operation",), buckets=_SECONDS)
FIRST_BYTE = Histogram("weft_router_first_byte_seconds", "From open to first byte.", ("operation",), buckets=_SECONDS)
OPEN_CALLS = Gauge("weft_router_open_calls", "Calls that are open.")
WAITING_CALLS = Gauge("weft_router_waiting_calls", "Calls that wait for a worker.")
SESSIONS = Gauge("weft_router_sessions", "Workers that are attached.")


def count_call(call: FinishedCall, outcome: str, now: float) -> None:
    """Notes a call that has ended."""
    operation = _OPERATIONS.get(call.request.operation, "other")
    _calls(operation, outcome).inc()
    attempts, duration, first_byte = _of_operation(operation)
    attempts.inc(call.attempts)
    duration.observe(now - call.started)
    if call.first_byte_at is not None:
        first_byte.observe(call.first_byte_at - call.started)
    if outcome in _FAULTS:
        request_id = call.request.header("x-request-id")
        log.warning("call %s ended with %s after %d attempts", request_id, outcome, call.attempts)


# To find a labelled child costs ten times what counting it costs; there are few, as the labels are bounded.


@functools.cache
def _calls(operation: str, outcome: str) -> Counter:
    return CALLS.labels(operation, outcome)


@functools.cache
def _of_operation(operation: str) -> tuple[Counter, Histogram, Histogram]:
    return ATTEMPTS.labels(operation), DURATION.labels(operation), FIRST_BYTE.labels(operation)
