"""The facade's metrics. Labels come from bounded sets: a client cannot make new series by inventing paths."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from services.core.measures import OTHER, Count, Counts, Family, Histogram, Histograms, Page, gauge
from services.facade.routes import OWN, POSTED, STATUS
from services.runtime.service_metrics import show_service

_MODELS: Final = "/v1/models"
_ROUTES: Final = POSTED | STATUS | OWN.keys() | {_MODELS}
_SECONDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0),
)


class Responses:
    """Counts responses that have ended."""

    def __init__(self) -> None:
        self._responses = Counts(
            "weft_facade_responses_total",
            "HTTP requests that ended, by status; 499 where the client left before the end of the answer.",
            ("route", "status"),
        )
        self._seconds = Histograms(
            "weft_facade_duration_seconds",
            "From a request's headers to the last byte of its answer.",
            ("route",),
            bounds=_SECONDS,
        )
        self._found: dict[tuple[str, int], tuple[Count, Histogram]] = {}

    def count(self, operation: str, status: int, seconds: float) -> None:
        """Notes a response."""
        count, histogram = self._found.get((operation, status)) or self._find(operation, status)
        count.value += 1
        histogram.observe(seconds)

    def families(self) -> Iterable[Family]:
        """What there is to show."""
        return (self._responses.family(), self._seconds.family())

    def _find(self, operation: str, status: int) -> tuple[Count, Histogram]:
        route = _MODELS if operation.startswith(_MODELS + "/") else operation
        if route not in _ROUTES:
            route = OTHER
        found = (self._responses.at(route, str(status)), self._seconds.at(route))
        if route == operation:  # what clients invent is not remembered
            self._found[operation, status] = found
        return found


class Busy(Protocol):
    """What the application has at hand."""

    @property
    def open_calls(self) -> int:
        """Calls that are open."""

    @property
    def arriving(self) -> int:
        """Bytes of bodies that are arriving."""


def show_facade(page: Page, responses: Responses, app: Busy, connections: Callable[[], int]) -> None:
    """Puts the facade's state onto a page."""
    show_service(page, "facade")

    def families() -> Iterable[Family]:
        yield from responses.families()
        yield gauge("weft_facade_open_calls", "Calls that are open.", app.open_calls)
        yield gauge("weft_facade_arriving_bytes", "Bytes of request bodies that are still arriving.", app.arriving)
        yield gauge("weft_facade_open_connections", "Clients' connections, idle ones among them.", connections())

    page.add(families)


def show_link(page: Page | None, up: Callable[[], bool]) -> None:
    """Puts the state of the facade's stream to its router onto a page, where there is one."""
    if page is not None:
        meaning = "1 while the facade's stream to its router stands, and the router takes calls; else 0."
        page.add(lambda: (gauge("weft_facade_router_link_up", meaning, 1 if up() else 0),))
