"""The database, SQLite or PostgreSQL: reading, and transactions that write.

Writers go one after another: each begins by raising the revision, and holds that row until it commits. So what a
transaction has read is still so when it commits, and the revision tells the order of all changes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from weft.registry.v1 import resources_pb2

from services.core.errors import Reason, ServiceError
from services.core.names import endpoint_name
from services.registry.tables import (
    CLUSTER,
    ENDPOINT,
    FUNCTION,
    HEAD,
    KINDS,
    ROUTE,
    VERSION_TABLE,
    Kind,
    Resource,
    endpoints,
    kind_of,
    metadata,
    route_targets,
    routes,
    state,
)
from services.runtime.database import explained, upgrade

MIGRATIONS: Final = Path(__file__).parent / "migrations"
"""Where alembic finds the steps of the schema."""
_AWAY: Final = "The registry's database does not answer; try again shortly."


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that exists at one revision: each resource's proto as bytes by name, each kind after those that it names."""

    revision: str
    contents: dict[str, bytes]


class Store:
    """The registry's database. `start` before use."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._committed: Callable[[], None] = lambda: None
        self._started = False

    def on_commit(self, committed: Callable[[], None]) -> None:
        """Has this called after each transaction that changed something."""
        self._committed = committed

    async def start(self) -> None:
        """Connects, and migrates the schema if need be. Raises REGISTRY_UNAVAILABLE if the database does not answer."""
        with explained(Reason.REGISTRY_UNAVAILABLE, _AWAY):
            async with self._engine.begin() as connection:
                await connection.run_sync(upgrade, MIGRATIONS, metadata, head=HEAD, table=VERSION_TABLE)
        self._started = True

    async def close(self) -> None:
        """Closes the connections."""
        await self._engine.dispose()

    async def revision(self) -> str:
        """The revision of the last change."""
        with self._answering():
            async with self._engine.connect() as connection:
                return _revision((await connection.execute(sa.select(state))).one())

    async def snapshot(self) -> Snapshot:
        """Everything, as it was at one moment."""
        with self._answering():
            async with self._reading() as connection:
                revision = _revision((await connection.execute(sa.select(state))).one())
                contents: dict[str, bytes] = {}
                for kind in KINDS:
                    columns = kind.table.c
                    rows = await connection.execute(sa.select(columns.name, columns.content).order_by(columns.name))
                    contents.update((name, content) for name, content in rows)
                return Snapshot(revision, contents)

    async def get(self, name: str) -> Resource:
        """A resource. Raises RESOURCE_NOT_FOUND."""
        with self._answering():
            async with self._engine.connect() as connection:
                return found(name, await _get(connection, name))

    async def list(self, kind: Kind, *, after: str, limit: int, parent: str = "") -> list[Resource]:
        """At most `limit` resources of a kind by name, those that follow the name `after`; of one cluster, if `parent`
        names it.
        """
        columns = kind.table.c
        query = sa.select(columns.content).where(columns.name > after).order_by(columns.name).limit(limit)
        if parent:
            query = query.where(columns.cluster == parent)
        with self._answering():
            async with self._engine.connect() as connection:
                return [kind.message.FromString(content) for content in (await connection.execute(query)).scalars()]

    @asynccontextmanager
    async def write(self, *, dry_run: bool = False) -> AsyncIterator[Writer]:
        """A transaction: committed at the end of the `async with` if something changed, undone by any exception."""
        with self._answering():
            async with self._engine.connect() as connection:
                bumped = sa.update(state).values(revision=state.c.revision + 1).returning(state.c.revision)
                writer = Writer(connection, (await connection.execute(bumped)).scalar_one())
                yield writer
                if not writer.changed or dry_run:
                    await connection.rollback()
                    return
                await connection.commit()
        self._committed()

    def _answering(self) -> AbstractContextManager[None]:
        if not self._started:
            raise ServiceError(Reason.REGISTRY_UNAVAILABLE, "The registry waits for its database; try again shortly.")
        return explained(Reason.REGISTRY_UNAVAILABLE, _AWAY)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        async with self._engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                # Else each statement would see what was committed before it, not before the first.
                await connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection


class Writer:
    """One transaction that writes. `revision` is what the registry's will be after it."""

    def __init__(self, connection: AsyncConnection, revision: int) -> None:
        self.revision = revision
        self.changed = False
        self._connection = connection

    async def get(self, name: str) -> Resource | None:
        """A resource, None if there is none of that name."""
        return await _get(self._connection, name)

    async def put(self, resource: Resource) -> None:
        """Makes a resource or replaces it."""
        self.changed = True
        kind = kind_of(resource.name)
        values: dict[str, Any] = {"content": resource.SerializeToString(deterministic=True)}
        if kind is ENDPOINT:
            values["cluster"] = endpoint_name(resource.name).parent
        if isinstance(resource, resources_pb2.Route):
            values["model"] = resource.model
        columns, execute = kind.table.c, self._connection.execute
        updated = await execute(sa.update(kind.table).where(columns.name == resource.name).values(values))
        if not updated.rowcount:
            await execute(sa.insert(kind.table).values(name=resource.name, **values))
        if isinstance(resource, resources_pb2.Route):
            await execute(sa.delete(route_targets).where(route_targets.c.route == resource.name))
            if targets := {target.endpoint for target in resource.targets}:
                rows = [{"route": resource.name, "endpoint": endpoint} for endpoint in sorted(targets)]
                await execute(sa.insert(route_targets), rows)

    async def delete(self, name: str) -> None:
        """Deletes a resource."""
        self.changed = True
        table = kind_of(name).table
        await self._connection.execute(sa.delete(table).where(table.c.name == name))

    async def users_of(self, name: str) -> list[str]:
        """The names of the resources, a few of them, that need this one."""
        queries = {
            CLUSTER: sa.select(endpoints.c.name).where(endpoints.c.cluster == name),
            ENDPOINT: sa.select(route_targets.c.route).where(route_targets.c.endpoint == name),
            ROUTE: None,
            FUNCTION: None,  # An endpoint names one by its UUID, if at all.
        }
        query = queries[kind_of(name)]
        if query is None:
            return []
        return list((await self._connection.execute(query.order_by(sa.text("1")).limit(3))).scalars())

    async def route_of(self, model: str) -> str | None:
        """The name of the route that claims a model."""
        found = await self._connection.execute(sa.select(routes.c.name).where(routes.c.model == model))
        return cast("str | None", found.scalar())


def found(name: str, resource: Resource | None) -> Resource:
    """The resource, if there is one. Raises RESOURCE_NOT_FOUND."""
    if resource is None:
        raise ServiceError(Reason.RESOURCE_NOT_FOUND, f"There is no '{name}'.", param="name")
    return resource


async def _get(connection: AsyncConnection, name: str) -> Resource | None:
    kind = kind_of(name)
    content = (await connection.execute(sa.select(kind.table.c.content).where(kind.table.c.name == name))).scalar()
    return None if content is None else kind.message.FromString(content)


def _revision(row: Any) -> str:
    # With the incarnation: the revisions of a database that was made anew begin at 0 again.
    return f"{row.incarnation}.{row.revision}"
