"""Opens the database that a URL names, and brings its schema to the one that this version needs."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from services.core.errors import Reason, ServiceError

_DRIVERS: Final = {"postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
_LOCK: Final = 0x77656674  # "weft": two services that start at once on one PostgreSQL must not both migrate.
failures: Final = Counter[Reason]()
"""How often a database has not answered, by what its service says then; for `store_metrics`."""
_turns: Final = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]()
"""Alembic keeps what it migrates in globals: two services of one process must not do so in each other's pauses."""

NAME: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""The type of resource names. Sorted by bytes on every database: a page begins after the last name of the one before,
and
PostgreSQL would otherwise sort by the rules of a language, which differ from SQLite's order."""


def open_database(url: str, file: Path, *, setting: str) -> AsyncEngine:
    """An engine for the URL, or for the SQLite file if the URL is empty; the file is made for its owner alone. Connects
    when it is first used. What fails does not tell the values of rows, some of which are secrets.

    Raises ARGUMENT_INVALID, naming the setting, for a URL of another kind.
    """
    try:
        parsed = sa.make_url(url or f"sqlite:///{file}")
    except ArgumentError:
        parsed = None
    driver = _DRIVERS.get(parsed.get_backend_name()) if parsed is not None else None
    if parsed is None or driver is None:
        # Without the URL itself: it may hold a password.
        message = f"'{setting}' must be a URL like 'postgresql://user@host/name' or 'sqlite:////path/to/file'."
        raise ServiceError(Reason.ARGUMENT_INVALID, message, param=setting)
    if driver == _DRIVERS["postgresql"]:
        # A connection that the server has closed since is found out and replaced before it is used.
        engine = create_async_engine(parsed.set(drivername=driver), pool_pre_ping=True, hide_parameters=True)
        sa.event.listen(engine.sync_engine, "connect", _prepare_postgresql)
        return engine
    if parsed.database and parsed.database != ":memory:":
        _make_private(Path(parsed.database))
    engine = create_async_engine(parsed.set(drivername=driver), hide_parameters=True)
    sa.event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    sa.event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


_STANDSTILL: Final = 10
"""Seconds that a transaction may do nothing before PostgreSQL ends it. A process that is frozen in one, or whose
machine is gone without a word, would keep its locks from everybody else: another launcher could never take over."""

_TRIES: Final = 100
_PAUSE: Final = 0.05
"""Seconds between two tries."""


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection that only reads. On SQLite such ones exclude neither each other nor one that writes, while all
    others wait for their turn, asleep: by these, a few wrong keys at once would keep everybody from being judged.
    """
    async with engine.connect() as connection:
        yield await connection.execution_options(reading=True)


def upgrade(connection: sa.Connection, migrations: Path, metadata: sa.MetaData, *, head: str, table: str) -> None:
    """Migrates the database if it is not at `head`, within the connection's transaction. `table` holds its version. To
    be called by `run_sync`.
    """
    turn = _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())
    await_only(turn.acquire())
    try:
        _upgrade(connection, migrations, metadata, head=head, table=table)
    finally:
        turn.release()


def _upgrade(connection: sa.Connection, migrations: Path, metadata: sa.MetaData, *, head: str, table: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    if _version(connection, table) == head:
        return
    # Imported here: alembic costs a third of a second, and hardly a start needs it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.attributes.update(connection=connection, metadata=metadata, table=table)
    command.upgrade(config, head)


@contextmanager
def explained(reason: Reason, message: str) -> Iterator[None]:
    """Turns a database that does not answer into a `ServiceError`. Faults of our own stay as they are."""
    try:
        yield
    except (IntegrityError, ProgrammingError):
        raise
    except (DBAPIError, PoolTimeoutError, OSError) as error:
        failures[reason] += 1
        raise ServiceError(reason, message) from error


def _version(connection: sa.Connection, table: str) -> str | None:
    if not sa.inspect(connection).has_table(table):
        return None
    version: str | None = connection.execute(sa.text(f"SELECT version_num FROM {table}")).scalar()  # noqa: S608 - ours
    return version


def _make_private(file: Path) -> None:
    """Before SQLite makes it by the umask: databases hold signing keys, and tell who uses what. SQLite gives its
    journals the mode of the file.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    file.chmod(0o600)


def _prepare_postgresql(connection: Any, record: object) -> None:
    # As a statement: a pooler between refuses connections that begin with settings which it does not know.
    cursor = connection.cursor()
    cursor.execute(f"SET idle_in_transaction_session_timeout = '{_STANDSTILL}s'")
    cursor.close()
    connection.commit()


def _prepare_sqlite(connection: Any, record: object) -> None:
    # The driver itself would begin a transaction only at the first write, so that what was read before it, or between
    # several reads, could change meanwhile.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("foreign_keys = ON", "busy_timeout = 5000", "synchronous = NORMAL"):
        cursor.execute(f"PRAGMA {pragma}")
    _keep_a_wal(cursor)
    cursor.close()


def _keep_a_wal(cursor: Any) -> None:
    """Has the database keep a write-ahead log. SQLite does not wait for its turn at this, whatever `busy_timeout` says:
    of several that open a fresh database at once, all but one would fail.
    """
    for _ in range(_TRIES):
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            await_only(asyncio.sleep(_PAUSE))
        else:
            return
    cursor.execute("PRAGMA journal_mode = WAL")


def _begin_sqlite(connection: sa.Connection) -> None:
    # With the execution option `reading`, a long query of a whole snapshot does not keep others from writing.
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
