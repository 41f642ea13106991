"""What is kept for a while, and then deleted, a few rows at a time: those that write and ask go on meanwhile."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

from services.core.errors import ServiceError

log = logging.getLogger(__name__)

_BATCH: Final = 1000
_PAUSE: Final = 0.1
_DAY: Final = 86400.0
_AGAIN: Final = 600.0
"""Seconds until the next attempt where the database did not answer."""


class Kept(Protocol):
    """A store of what is kept for a while."""

    async def prune(self, before: float, limit: int) -> int:
        """Deletes at most `limit` of what is from before then, in seconds since 1970, and says how many. Raises
        AUTH_UNAVAILABLE.
        """


async def prune(store: Kept, keep_days: float, now: float) -> int:
    """Deletes what is older, and says how much that was. Raises AUTH_UNAVAILABLE."""
    deleted = 0
    while (count := await store.prune(now - keep_days * _DAY, _BATCH)) > 0:
        deleted += count
        await asyncio.sleep(_PAUSE)
    return deleted


async def keep_pruning(store: Kept, what: str, keep_days: float, clock: Callable[[], float] = time.time) -> None:
    """Prunes at the start and then daily, until it is cancelled. `what` names it in the log."""
    while True:
        pause = _DAY
        try:
            if deleted := await prune(store, keep_days, clock()):
                log.info("%d %s were older than %g days, and are deleted", deleted, what, keep_days)
        except ServiceError as error:
            log.warning("old %s could not be deleted: %s", what, error)
            pause = _AGAIN
        await asyncio.sleep(pause)
