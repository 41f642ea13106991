"""How late the event loop is: what keeps it busy keeps every call of the process waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from services.core.measures import Family, Histograms, Page

_EVERY: Final = 0.5
"""Seconds between two looks."""
_BOUNDS: Final = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


@asynccontextmanager
async def watching_lag(page: Page | None) -> AsyncIterator[None]:
    """Measures it in the body of the `async with`, where there is a page to show it on."""
    if page is None:
        yield
        return
    lag = Histograms(
        "weft_event_loop_lag_seconds",
        "How much later than asked the event loop came back to a timer that goes off twice a second.",
        bounds=_BOUNDS,
    )

    def shown() -> Iterable[Family]:
        return (lag.family(),)

    page.add(shown)
    watching = asyncio.get_running_loop().create_task(_watch(lag), name="event loop lag")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(lag: Histograms) -> None:
    loop, histogram = asyncio.get_running_loop(), lag.at()
    while True:
        due = loop.time() + _EVERY
        await asyncio.sleep(_EVERY)
        histogram.observe(max(0.0, loop.time() - due))
