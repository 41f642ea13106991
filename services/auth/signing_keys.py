"""The keys that session tokens are signed with, in auth's database."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.auth.tables import AWAY, signing_keys
from services.auth.tokens import SigningKey, from_bytes, new_signing_key, to_bytes
from services.core.errors import Reason
from services.runtime.database import explained

_LOCK: Final = 0x7369676E  # "sign": of several auths on one PostgreSQL, one makes the fresh key.
_SLACK: Final = 60.0
"""Seconds that an old key stays beyond its last token's end: auths' clocks differ."""


class SigningKeyStore:
    """The newest key signs, the others verify. The key store's `start` makes the table. Everything raises
    AUTH_UNAVAILABLE while the database does not answer.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def all(self) -> list[SigningKey]:
        """The keys whose tokens are good, newest first. Read anew each time: another auth may have made one."""
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.connect() as connection:
                query = sa.select(signing_keys).order_by(*_NEWEST_FIRST)
                rows = (await connection.execute(query)).all()
                return [from_bytes(row.id, row.private_key) for row in rows]

    async def rotate(self, now: float, *, life: float) -> SigningKey | None:
        """Makes a fresh key if the newest is `life` seconds old, or there is none."""
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                await _lock(connection)
                newest = (await connection.execute(sa.select(sa.func.max(signing_keys.c.created_at)))).scalar()
                return None if newest is not None and now - newest < life else await _add(connection, newest, now)

    async def replace(self, now: float) -> SigningKey:
        """Makes a fresh key, however old the newest is."""
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                await _lock(connection)
                newest = (await connection.execute(sa.select(sa.func.max(signing_keys.c.created_at)))).scalar()
                return await _add(connection, newest, now)

    async def remove_old(self, now: float, *, token_life: float) -> int:
        """Removes the keys whose last token, of `token_life` seconds, has expired; gives how many."""
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                await _lock(connection)
                query = sa.select(signing_keys.c.id, signing_keys.c.created_at).order_by(*_NEWEST_FIRST)
                rows = (await connection.execute(query)).all()
                # Each has signed until the one that follows it was made.
                old = [row.id for next_one, row in pairwise(rows) if next_one.created_at + token_life + _SLACK < now]
                if old:
                    await connection.execute(sa.delete(signing_keys).where(signing_keys.c.id.in_(old)))
                return len(old)


_NEWEST_FIRST: Final = (signing_keys.c.created_at.desc(), signing_keys.c.id)


async def _add(connection: AsyncConnection, newest: float | None, now: float) -> SigningKey:
    fresh = new_signing_key()
    # Later than the newest, though that be of an auth whose clock is ahead: by this the newest is found.
    created_at = now if newest is None else max(now, newest + 0.001)
    values = {"id": fresh.id, "private_key": to_bytes(fresh), "created_at": created_at}
    await connection.execute(sa.insert(signing_keys).values(**values))
    return fresh


async def _lock(connection: AsyncConnection) -> None:
    """Until the transaction ends. SQLite's transactions exclude each other anyway."""
    if connection.dialect.name == "postgresql":
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
