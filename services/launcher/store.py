"""Starts, wants and the lease in a database, SQLite or PostgreSQL.

Whoever writes a start shows the number of its lease, its fence, in the same transaction, which holds the lease's row: a
launcher that was paused while another took over changes nothing any more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.core.errors import Reason
from services.core.tracing import parse
from services.launcher.starts import Start
from services.launcher.tables import HEAD, VERSION_TABLE, lease, metadata, starts, task_mode, wants
from services.runtime.database import explained, upgrade

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_AWAY: Final = "The launcher's database does not answer; try again shortly."
_LEASE: Final = "launcher"
_MANY: Final = 2000


class LeaseLostError(Exception):
    """Another launcher has taken over; nothing was written."""


class Store:
    """The launcher's database. `start` before use. Everything raises LAUNCHER_UNAVAILABLE while it does not answer.

    `holder` is this launcher's name, which no other has. The lease is another's for as long as that one beats: if its
    beat stands still for `lease_life` seconds of our own clock, it is dead, and nobody's clocks are compared.
    """

    def __init__(self, engine: AsyncEngine, *, holder: str, lease_life: float, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._holder = holder
        self._lease_life = lease_life
        self._clock = clock
        self._seen: tuple[str, int] = ("", -1)
        self._seen_at = 0.0

    async def start(self) -> None:
        """Connects, and migrates the schema if need be."""
        with explained(Reason.LAUNCHER_UNAVAILABLE, _AWAY):
            async with self._engine.begin() as connection:
                await connection.run_sync(upgrade, _MIGRATIONS, metadata, head=HEAD, table=VERSION_TABLE)

    async def close(self) -> None:
        """Closes the connections."""
        await self._engine.dispose()

    # The lease

    async def hold(self) -> int | None:
        """Takes the lease or keeps it, and gives its fence; None while another launcher has it."""
        async with self._writing() as connection:
            row = (await connection.execute(sa.select(lease).with_for_update())).one_or_none()
            if row is None:
                values = {"name": _LEASE, "holder": self._holder, "fence": 1, "beat": 0}
                added = await connection.execute(_insert(connection, lease, values).on_conflict_do_nothing())
                return 1 if added.rowcount else None
            if row.holder == self._holder:
                await connection.execute(sa.update(lease).values(beat=lease.c.beat + 1))
                return int(row.fence)
            if row.holder and not self._is_silent(row.holder, row.beat):
                return None
            fence = int(row.fence) + 1
            await connection.execute(sa.update(lease).values(holder=self._holder, fence=fence, beat=0))
            return fence

    def _is_silent(self, holder: str, beat: int) -> bool:
        if self._seen != (holder, beat):
            self._seen, self._seen_at = (holder, beat), self._clock()
        return self._clock() - self._seen_at >= self._lease_life

    async def release(self) -> None:
        """Gives the lease back, if it is ours: another need not wait for it."""
        async with self._writing() as connection:
            await connection.execute(sa.update(lease).where(lease.c.holder == self._holder).values(holder=""))

    # Starts

    async def add(self, start: Start, fence: int) -> bool:
        """Keeps a new start; False if its slot has a live one. Raises `LeaseLostError`."""
        async with self._fenced(fence) as connection:
            added = await connection.execute(
                _insert(connection, starts, {**_row(start), "stop_why": ""}).on_conflict_do_nothing()
            )
            return bool(added.rowcount)

    async def put(self, start: Start, fence: int) -> None:
        """Changes a start. Raises `LeaseLostError`."""
        async with self._fenced(fence) as connection:
            await connection.execute(sa.update(starts).where(starts.c.id == start.id).values(**_row(start)))

    async def find(self, identity: str) -> Start | None:
        """The start with this id."""
        rows = await self._read(sa.select(starts.c.content).where(starts.c.id == identity))
        return _start(rows[0]) if rows else None

    async def unsettled(self) -> list[Start]:
        """The starts for which something is left to do: the live ones, and those that auth may still admit."""
        query = sa.select(starts.c.content).where(sa.not_(starts.c.settled)).order_by(starts.c.created_at, starts.c.id)
        return [_start(row) for row in await self._read(query)]

    async def ended(self, since: float) -> list[Start]:
        """The starts that were over since then, the last first; of very many, those."""
        query = (
            sa.select(starts.c.content)
            .where(starts.c.ended_at >= since)
            .order_by(starts.c.ended_at.desc())
            .limit(_MANY)
        )
        return [_start(row) for row in await self._read(query)]

    async def forget(self, before: float) -> None:
        """Deletes the starts that were over before then, and for which nothing is left to do."""
        async with self._writing() as connection:
            old = sa.and_(starts.c.settled, starts.c.ended_at < before)
            await connection.execute(sa.delete(starts).where(old))

    async def page(
        self, *, endpoint: str = "", ended: bool, after: tuple[float, str] | None = None, limit: int
    ) -> list[Start]:
        """At most `limit` starts, newest first, those that follow the one made at a time with an id."""
        query = sa.select(starts.c.content).order_by(starts.c.created_at.desc(), starts.c.id.desc()).limit(limit)
        if endpoint:
            query = query.where(starts.c.endpoint == endpoint)
        if not ended:
            query = query.where(starts.c.ended_at.is_(None))
        if after is not None:
            query = query.where(sa.tuple_(starts.c.created_at, starts.c.id) < sa.tuple_(*map(sa.literal, after)))
        return [_start(row) for row in await self._read(query)]

    async def ask_stop(self, identity: str, why: str) -> bool:
        """Has whoever holds the lease stop a start; False if there is none of that id."""
        async with self._writing() as connection:
            query = sa.update(starts).where(starts.c.id == identity).values(stop_why=why)
            return bool((await connection.execute(query)).rowcount)

    async def asked_to_stop(self) -> dict[str, str]:
        """Why live starts are to stop, by their ids, for those that are."""
        query = sa.select(starts.c.id, starts.c.stop_why).where(starts.c.ended_at.is_(None), starts.c.stop_why != "")
        return {row.id: row.stop_why for row in await self._read(query)}

    # Wants

    async def say_want(self, endpoint: str, router: str, waiting: int, now: float, traceparent: str = "") -> None:
        """Notes how many calls wait for an endpoint at a router, and the span of one of them."""
        async with self._writing() as connection:
            said = {"waiting": waiting, "said_at": now, "traceparent": traceparent}
            values = {"endpoint": endpoint, "router": router, **said}
            await connection.execute(
                _insert(connection, wants, values).on_conflict_do_update(
                    index_elements=[wants.c.endpoint, wants.c.router], set_=said
                )
            )

    async def waiting(self, since: float) -> dict[str, int]:
        """How many calls wait for each endpoint, of the wants said since then."""
        total = sa.func.sum(wants.c.waiting).label("total")
        query = sa.select(wants.c.endpoint, total).where(wants.c.said_at >= since).group_by(wants.c.endpoint)
        return {row.endpoint: int(row.total) for row in await self._read(query) if row.total}

    async def cause(self, endpoint: str, since: float) -> str:
        """The `traceparent` of a call that waits for an endpoint, by the wants said since then: of one that is sampled
        if any is, else of the one that has been told of first; empty if none is traced.
        """
        told = sa.and_(wants.c.endpoint == endpoint, wants.c.said_at >= since, wants.c.traceparent != "")
        rows = await self._read(
            sa.select(wants.c.traceparent).where(told, wants.c.waiting > 0).order_by(wants.c.said_at)
        )
        found = [place for row in rows if (place := parse(row.traceparent)) is not None]
        return max(found, key=lambda place: place.sampled).traceparent if found else ""

    async def forget_wants(self, before: float) -> None:
        """Deletes the wants that were last said before then."""
        async with self._writing() as connection:
            await connection.execute(sa.delete(wants).where(wants.c.said_at < before))

    # Endpoints whose calls travel as tasks

    async def in_task_mode(self) -> frozenset[str]:
        """Their names."""
        return frozenset(row.endpoint for row in await self._read(sa.select(task_mode.c.endpoint)))

    async def set_task_mode(self, endpoint: str, fence: int, *, since: float | None) -> None:
        """Has an endpoint's calls travel as tasks since then; None ends it. Raises `LeaseLostError`."""
        async with self._fenced(fence) as connection:
            await connection.execute(sa.delete(task_mode).where(task_mode.c.endpoint == endpoint))
            if since is not None:
                await connection.execute(sa.insert(task_mode).values(endpoint=endpoint, since=since))

    @asynccontextmanager
    async def _fenced(self, fence: int) -> AsyncIterator[AsyncConnection]:
        async with self._writing() as connection:
            row = (await connection.execute(sa.select(lease).with_for_update())).one_or_none()
            if row is None or (row.holder, row.fence) != (self._holder, fence):
                raise LeaseLostError
            yield connection

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[AsyncConnection]:
        with explained(Reason.LAUNCHER_UNAVAILABLE, _AWAY):
            async with self._engine.begin() as connection:
                yield connection

    async def _read(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with explained(Reason.LAUNCHER_UNAVAILABLE, _AWAY):
            async with self._engine.connect() as connection:
                rows: Sequence[sa.Row[Any]] = (await connection.execute(query)).all()
                return rows


def _insert(
    connection: AsyncConnection, table: sa.Table, values: Mapping[str, Any]
) -> postgresql.Insert | sqlite.Insert:
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).values(**values)
    return sqlite.insert(table).values(**values)


def _row(start: Start) -> dict[str, Any]:
    return {
        "id": start.id,
        "endpoint": start.endpoint,
        "slot": start.slot,
        "created_at": start.created_at,
        "ended_at": start.ended_at,
        "settled": not start.live and start.revoked,
        "content": msgspec.json.encode(start),
    }


def _start(row: sa.Row[Any]) -> Start:
    return msgspec.json.decode(row.content, type=Start)
