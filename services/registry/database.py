"""Opens the database that a URL names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.core.errors import Reason, ServiceError

_DRIVERS = {"postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}


def open_database(url: str, home: Path) -> AsyncEngine:
    """An engine for the URL, or for `registry.db` in the home if it is empty. Connects when it is first used.

    Raises ARGUMENT_INVALID for a URL of another kind.
    """
    try:
        parsed = sa.make_url(url) if url else sa.URL.create("sqlite", database=str(home / "registry.db"))
    except ArgumentError:
        parsed = None
    driver = _DRIVERS.get(parsed.get_backend_name()) if parsed is not None else None
    if parsed is None or driver is None:
        # Without the URL itself: it may hold a password.
        message = "'registry.database' must be a URL like 'postgresql://user@host/name' or 'sqlite:////path/to/file'."
        raise ServiceError(Reason.ARGUMENT_INVALID, message, param="registry.database")
    if driver == _DRIVERS["postgresql"]:
        # A connection that the server has closed since is found out and replaced before it is used.
        return create_async_engine(parsed.set(drivername=driver), pool_pre_ping=True)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(parsed.set(drivername=driver))
    sa.event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    sa.event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: object) -> None:
    # The driver itself would begin a transaction only at the first write, so that what was read before it, or between
    # several reads, could change meanwhile.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("foreign_keys = ON", "journal_mode = WAL", "busy_timeout = 5000", "synchronous = NORMAL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")
