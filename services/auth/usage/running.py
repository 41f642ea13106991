"""The keeping of usage records, put together."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec

from services.auth.usage.retention import keep_pruning
from services.auth.usage.servicer import UsageServicer
from services.auth.usage.store import UsageStore, open_usage

_POSTGRESQL: Final = "postgresql"


class UsageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`database` is a URL; empty means auth's own where that is PostgreSQL, else the file `usage.db` in the home:
    SQLite lets one write at a time, and no login is to wait for records.
    """

    database: str = ""
    retention_days: float = 400.0


@contextlib.asynccontextmanager
async def keeping_usage(config: UsageConfig, auth_database: str, home: Path) -> AsyncIterator[UsageServicer]:
    """Keeps records in the body of the `async with`. Raises ARGUMENT_INVALID for a wrong URL."""
    url = config.database or (auth_database if auth_database.startswith(_POSTGRESQL) else "")
    file = home / "usage.db"
    if not url:
        _make_private(file)
    store = UsageStore(open_usage(url, file))
    pruning = asyncio.create_task(keep_pruning(store, config.retention_days))
    try:
        yield UsageServicer(store)
    finally:
        pruning.cancel()
        await asyncio.gather(pruning, return_exceptions=True)
        await store.close()


def _make_private(file: Path) -> None:
    """Before SQLite makes it by the umask: it tells who uses what."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
