"""The facade's metrics. Labels come from bounded sets: a client cannot make new series by inventing paths."""

from __future__ import annotations

import functools
from typing import Final

from prometheus_client import Counter, Gauge

from services.facade.routes import POSTED, STATUS

RESPONSES = Counter("weft_facade_responses", "HTTP responses that ended.", ("route", "status"))
OPEN_CALLS = Gauge("weft_facade_open_calls", "Calls that are open.")

_ROUTES: Final = POSTED | STATUS | {"/v1/models", "/health", "/metrics", "/version"}


def count_response(operation: str, status: int) -> None:
    """Notes a response."""
    _responses(operation if operation in _ROUTES else "other", status).inc()


@functools.cache
def _responses(route: str, status: int) -> Counter:
    """The labelled child: to find it costs ten times what counting costs, and there are few."""
    return RESPONSES.labels(route, str(status))
