"""Usage records are kept for a while, and then deleted, a few at a time: those that record and ask go on meanwhile."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from services.auth.usage.store import UsageStore
from services.core.errors import ServiceError

log = logging.getLogger(__name__)

_BATCH: Final = 1000
_PAUSE: Final = 0.1
_DAY: Final = 86400.0
_AGAIN: Final = 600.0
"""Seconds until the next attempt where the database did not answer."""


async def prune(store: UsageStore, keep_days: float, now: float) -> int:
    """Deletes what is older, and says how many records that were. Raises AUTH_UNAVAILABLE."""
    deleted = 0
    while (count := await store.prune(now - keep_days * _DAY, _BATCH)) > 0:
        deleted += count
        await asyncio.sleep(_PAUSE)
    return deleted


async def keep_pruning(store: UsageStore, keep_days: float, clock: Callable[[], float] = time.time) -> None:
    """Prunes at the start and then daily, until it is cancelled."""
    while True:
        pause = _DAY
        try:
            if deleted := await prune(store, keep_days, clock()):
                log.info("%d usage records were older than %g days, and are deleted", deleted, keep_days)
        except ServiceError as error:
            log.warning("old usage records could not be deleted: %s", error)
            pause = _AGAIN
        await asyncio.sleep(pause)
