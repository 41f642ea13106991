"""The facade's metrics. Labels come from bounded sets: a client cannot make new series by inventing paths."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge

from services.facade.routes import POSTED

RESPONSES = Counter("weft_facade_responses", "HTTP responses that ended.", ("route", "status"))
OPEN_CALLS = Gauge("weft_facade_open_calls", "Calls that are open.")

_ROUTES: Final = POSTED | {"/v1/models", "/health", "/metrics", "/version"}
_children: dict[tuple[str, int], Counter] = {}


def count_response(operation: str, status: int) -> None:
    """Notes a response."""
    route = operation if operation in _ROUTES else "other"
    child = _children.get((route, status))
    if child is None:
        child = _children[route, status] = RESPONSES.labels(route, str(status))
    child.inc()
