"""Small things done in the background, each again until it is no longer asked for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from services.core.errors import ServiceError
from services.globus.errors import GlobusError

log = logging.getLogger(__name__)

_REMEMBERED: Final = 1000
_LONGEST: Final = 3600.0
"""Seconds, above every interval that is asked for."""


class Errands:
    """Runs errands by their names: one of a name at a time, and not again within the interval that is given."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._running: dict[str, asyncio.Task[None]] = {}
        self._begun: dict[str, float] = {}

    def run(self, name: str, errand: Callable[[], Coroutine[Any, Any, None]], *, every: float) -> None:
        """Begins an errand, unless it runs or began less than `every` seconds ago. What it raises is logged."""
        now = self._clock()
        if name in self._running or now - self._begun.get(name, -every) < every:
            return
        if len(self._begun) >= _REMEMBERED:
            self._begun = {known: begun for known, begun in self._begun.items() if now - begun < _LONGEST}
        self._begun[name] = now
        task = asyncio.get_running_loop().create_task(_logged(name, errand()), name=name)
        self._running[name] = task
        task.add_done_callback(lambda _: self._running.pop(name, None))

    async def close(self) -> None:
        """Ends those that run."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _logged(name: str, errand: Coroutine[Any, Any, None]) -> None:
    try:
        await errand
    except (ServiceError, GlobusError) as error:
        log.warning("%s: %s", name, error)
    except Exception:
        log.exception("%s failed", name)
