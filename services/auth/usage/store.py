"""Usage records in a database, SQLite or PostgreSQL. Sums are made there, in SQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.auth.usage.tables import VERSION_TABLE, calls, groups, metadata
from services.core.errors import Reason
from services.runtime.database import explained, open_database, upgrade

HEAD: Final = "0001"
"""The newest of `migrations/versions`; a test holds the two together."""

AWAY: Final = "The database of the usage records does not answer; try again shortly."

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_ROWS: Final = 500
"""Rows in one statement: databases bound the values that it may have."""

KEYS: Final = {
    "principal": calls.c.principal,
    "group": sa.func.coalesce(groups.c.name, ""),
    "model": calls.c.model,
    "day": calls.c.day,
    "endpoint": calls.c.endpoint,
    "operation": calls.c.operation,
}
"""By what sums can be made. A caller without groups stands under the empty one."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which calls: from `since` to before `until`, in seconds since 1970. None and empty mean all."""

    since: float | None = None
    until: float | None = None
    principal: str = ""
    group: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class Sum:
    """A row of sums, with the values that it is for."""

    keys: tuple[str | int, ...]
    calls: int
    failed: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int


def open_usage(url: str, file: Path) -> AsyncEngine:
    """The engine for the records: of a URL, or of a file if that is empty. Raises ARGUMENT_INVALID."""
    engine = open_database(url, file, setting="auth.usage.database")
    if engine.dialect.name == "sqlite":
        # What is acknowledged is deleted elsewhere, so that it must have survived a power cut here.
        sa.event.listen(engine.sync_engine, "connect", _be_durable)
    return engine


class UsageStore:
    """The records. Everything raises AUTH_UNAVAILABLE while the database does not answer: what else auth does is not
    to wait for it.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._started = False
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Connects, and migrates the schema if need be. Done by the first use, too."""
        async with self._starting:
            if self._started:
                return
            with explained(Reason.AUTH_UNAVAILABLE, AWAY):
                async with self._engine.begin() as connection:
                    await connection.run_sync(upgrade, _MIGRATIONS, metadata, head=HEAD, table=VERSION_TABLE)
            self._started = True

    async def close(self) -> None:
        """Closes the connections."""
        await self._engine.dispose()

    async def record(self, rows: Sequence[dict[str, Any]], memberships: Sequence[dict[str, Any]]) -> None:
        """Keeps rows of `calls` and of `groups`; those that are known, by their ids, stay as they are."""
        insert: Any = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        # In the order of the ids: two auths that are sent the same must not wait for each other crosswise.
        ordered = sorted(rows, key=lambda row: str(row["id"]))
        async with self._writing() as connection:
            for table, values in ((calls, ordered), (groups, memberships)):
                for begin in range(0, len(values), _ROWS):
                    statement = insert(table).on_conflict_do_nothing()
                    await connection.execute(statement, list(values[begin : begin + _ROWS]))

    async def sums(
        self, by: Sequence[str], wanted: Filter, *, after: Sequence[str | int] = (), limit: int
    ) -> list[Sum]:
        """At most `limit` rows behind the one with the keys `after`, in the order of their keys."""
        keys = [KEYS[name].label(f"key_{place}") for place, name in enumerate(by)]
        failed = sa.func.sum(sa.case((calls.c.outcome == "ok", 0), else_=1))
        tokens = [
            sa.func.sum(column) for column in (calls.c.input_tokens, calls.c.output_tokens, calls.c.cached_tokens)
        ]
        query = sa.select(*keys, sa.func.count(), failed, *tokens).where(*_conditions(wanted))
        if "group" in by:
            query = query.select_from(calls.outerjoin(groups, groups.c.call == calls.c.id))
        if after:
            query = query.where(sa.tuple_(*(KEYS[name] for name in by)) > sa.tuple_(*after))
        if by:
            query = query.group_by(*keys).order_by(*keys)
        found = await self._read(query.limit(limit))
        size = len(by)
        return [Sum(tuple(row[:size]), *(int(value or 0) for value in row[size:])) for row in found if row[size]]

    async def page(self, wanted: Filter, *, after: tuple[float, str] | None, limit: int) -> list[sa.Row[Any]]:
        """At most `limit` rows of `calls` that began behind `after`, a time and an id, oldest first."""
        query = sa.select(calls).where(*_conditions(wanted)).order_by(calls.c.started_at, calls.c.id).limit(limit)
        if after is not None:
            query = query.where(sa.tuple_(calls.c.started_at, calls.c.id) > sa.tuple_(*after))
        return list(await self._read(query))

    async def groups_of(self, identities: Sequence[str]) -> dict[str, list[str]]:
        """The groups of calls, by their ids."""
        found: dict[str, list[str]] = {}
        for begin in range(0, len(identities), _ROWS):
            among = groups.c.call.in_(identities[begin : begin + _ROWS])
            for row in await self._read(sa.select(groups.c.call, groups.c.name).where(among).order_by(groups.c.name)):
                found.setdefault(row.call, []).append(row.name)
        return found

    async def prune(self, before: float, limit: int) -> int:
        """Deletes at most `limit` of the calls that began before then, and says how many."""
        old = sa.select(calls.c.id).where(calls.c.started_at < before).order_by(calls.c.started_at).limit(limit)
        async with self._writing() as connection:
            deleted: int = (await connection.execute(sa.delete(calls).where(calls.c.id.in_(old)))).rowcount
            return deleted

    @contextlib.asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        await self.start()
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                yield connection

    async def _read(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        await self.start()
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.connect() as plain:
                connection = await plain.execution_options(reading=True)
                rows: Sequence[sa.Row[Any]] = (await connection.execute(query)).all()
                return rows


def _conditions(wanted: Filter) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if wanted.since is not None:
        conditions.append(calls.c.started_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(calls.c.started_at < wanted.until)
    if wanted.principal:
        conditions.append(calls.c.principal == wanted.principal)
    if wanted.model:
        conditions.append(calls.c.model == wanted.model)
    if wanted.group:
        members = groups.alias("members")
        among = [members.c.name == wanted.group]
        if wanted.since is not None:
            among.append(members.c.started_at >= wanted.since)
        if wanted.until is not None:
            among.append(members.c.started_at < wanted.until)
        conditions.append(calls.c.id.in_(sa.select(members.c.call).where(*among)))
    return conditions


def _be_durable(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()
