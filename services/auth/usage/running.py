"""The keeping of usage records, put together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Final

import msgspec

from services.auth.retention import keep_pruning
from services.auth.usage.servicer import UsageServicer
from services.auth.usage.store import UsageStore, open_usage

_POSTGRESQL: Final = "postgresql"


class UsageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`database` is a URL; empty means auth's own where that is PostgreSQL, else the file `usage.db` in the home:
    SQLite lets one write at a time, and no login is to wait for records.
    """

    database: str = ""
    retention_days: Annotated[float, msgspec.Meta(gt=0)] = 400.0
    """Zero is refused: who writes it may mean 'for ever', and would lose all records at once."""


@contextlib.asynccontextmanager
async def keeping_usage(config: UsageConfig, auth_database: str, home: Path) -> AsyncIterator[UsageServicer]:
    """Keeps records in the body of the `async with`. Raises ARGUMENT_INVALID for a wrong URL."""
    url = config.database or (auth_database if auth_database.startswith(_POSTGRESQL) else "")
    store = UsageStore(open_usage(url, home / "usage.db"))
    pruning = asyncio.create_task(keep_pruning(store, "usage records", config.retention_days))
    try:
        yield UsageServicer(store)
    finally:
        pruning.cancel()
        await asyncio.gather(pruning, return_exceptions=True)
        await store.close()
