"""Who was seen: the principals whose credentials were judged, for those who administer; written in batches."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine
from weft.auth.v1 import auth_pb2

from services.auth.tables import AWAY, principals
from services.core.errors import Reason, ServiceError
from services.core.principal import Principal
from services.rpc.principal import principal_from_proto, principal_to_proto
from services.runtime.database import explained

log = logging.getLogger(__name__)

_EVERY: Final = 5.0
_BATCH: Final = 500


class SeenPrincipals:
    """Notes principals in memory, at most so many, so that no caller waits for the database; `run` writes them each
    five seconds, and `write` what is left at the end. What a crash loses is noted anew with the next call.
    """

    def __init__(self, engine: AsyncEngine, *, capacity: int = 10_000) -> None:
        self._engine = engine
        self._capacity = capacity
        self._noted: dict[str, tuple[Principal, float]] = {}

    def note(self, principal: Principal, now: float) -> None:
        """Whom a credential proved."""
        if len(self._noted) < self._capacity or principal.name in self._noted:
            self._noted[principal.name] = (principal, now)

    async def find(self, name: str) -> tuple[Principal, float] | None:
        """The principal as it was last seen, and when, in seconds since 1970. Raises AUTH_UNAVAILABLE."""
        if (noted := self._noted.get(name)) is not None:
            return noted
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.connect() as connection:
                query = sa.select(principals).where(principals.c.name == name)
                row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        return principal_from_proto(auth_pb2.Principal.FromString(row.principal)), row.last_used_at

    async def prune(self, before: float, limit: int) -> int:
        """Forgets at most `limit` of those who were not seen since then, and says how many. Raises AUTH_UNAVAILABLE."""
        unseen = principals.c.last_used_at < before
        old = sa.select(principals.c.name).where(unseen).order_by(principals.c.last_used_at).limit(limit)
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                # Asked again in the deletion: whoever was seen meanwhile by another auth stays.
                change = sa.delete(principals).where(principals.c.name.in_(old), unseen)
                deleted: int = (await connection.execute(change)).rowcount
                return deleted

    async def run(self) -> None:
        """Writes from time to time, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY)
            await self.write()

    async def write(self) -> None:
        """Writes what was noted; what the database does not take now is written the next time."""
        noted, self._noted = self._noted, {}
        rows = [
            {"name": name, "principal": principal_to_proto(principal).SerializeToString(), "last_used_at": when}
            # Sorted, as two auths that write the same ones in different orders would wait for each other.
            for name, (principal, when) in sorted(noted.items())
        ]
        try:
            for start in range(0, len(rows), _BATCH):
                await self._put(rows[start : start + _BATCH])
        except ServiceError as error:
            log.warning("who was seen is written later: %s", error)
            self._noted = {**noted, **self._noted}

    async def _put(self, rows: list[dict[str, object]]) -> None:
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
                fresh = insert(principals).values(rows)
                newer = fresh.excluded.last_used_at >= principals.c.last_used_at
                changed = {"principal": fresh.excluded.principal, "last_used_at": fresh.excluded.last_used_at}
                await connection.execute(
                    fresh.on_conflict_do_update(index_elements=[principals.c.name], set_=changed, where=newer)
                )
