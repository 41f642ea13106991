"""How long a service waits for its database, and how often in vain."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from services.core.errors import Reason
from services.core.measures import Family, Histograms, Page, counters
from services.runtime.database import failures

_BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BEGAN: Final = "weft.began"


def show_store(page: Page | None, service: str, engine: AsyncEngine, unavailable: Reason) -> None:
    """Measures each statement of an engine, where there is a page. `unavailable` is what the service says when its
    database does not answer.
    """
    if page is None:
        return
    seconds = Histograms(
        "weft_store_duration_seconds",
        "How long statements took at the service's database, with the wait for a lock.",
        ("service",),
        bounds=_BOUNDS,
    )
    histogram = seconds.at(service)

    # One statement at a time runs on a connection.
    def before(connection: sa.Connection, *_: Any) -> None:
        connection.info[_BEGAN] = time.perf_counter()

    def after(connection: sa.Connection, *_: Any) -> None:
        histogram.observe(time.perf_counter() - connection.info[_BEGAN])

    def families() -> Iterable[Family]:
        yield seconds.family()
        yield counters(
            "weft_store_errors_total",
            "Questions that the service's database did not answer.",
            ("service",),
            [((service,), failures[unavailable])],
        )

    sa.event.listen(engine.sync_engine, "before_cursor_execute", before)
    sa.event.listen(engine.sync_engine, "after_cursor_execute", after)
    page.add(families)
