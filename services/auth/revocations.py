"""What was revoked, in auth's database: a numbered list that those who keep auth's answers follow."""

from __future__ import annotations

from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.auth.tables import AWAY, revocations
from services.core.errors import Reason
from services.rpc.revocations import Revocation, RevocationKind
from services.runtime.database import explained

KEEP: Final = 86400.0
"""Seconds that a revocation is told. No session token is good for longer, and who follows after a longer absence
forgets all.
"""

_BEGINNING: Final = ""
"""The kind of the first row: whoever has seen it keeps something, while revision 0 says that nothing is kept."""

_LOCK: Final = 0x7265766F  # "revo"


class Recorded(NamedTuple):
    """A revocation and its number; None for a row that revokes nothing."""

    revision: int
    revocation: Revocation | None


async def record(connection: AsyncConnection, revocation: Revocation, now: float) -> None:
    """Adds a revocation in the transaction that makes it true, whose last statement this must be."""
    await _append(connection, revocation.kind.value, revocation.name, now)
    await connection.execute(sa.delete(revocations).where(revocations.c.revoked_at < now - KEEP))


async def _append(connection: AsyncConnection, kind: str, name: str, now: float) -> None:
    if connection.dialect.name == "postgresql":
        # Until the transaction ends: a higher number that could be seen before a lower one would hide that for good.
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    newest = (await connection.execute(sa.select(sa.func.max(revocations.c.revision)))).scalar() or 0
    # Microseconds since 1970, so that two databases do not give the same number: who followed another one is found out.
    revision = max(newest + 1, int(now * 1e6))
    await connection.execute(sa.insert(revocations).values(revision=revision, kind=kind, name=name, revoked_at=now))


class RevocationStore:
    """The list. The key store's `start` makes its table. Everything raises AUTH_UNAVAILABLE while the database does not
    answer.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def start(self, now: float) -> None:
        """Begins the list, if it is empty."""
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                if (await connection.execute(sa.select(sa.func.max(revocations.c.revision)))).scalar() is None:
                    await _append(connection, _BEGINNING, "", now)

    async def newest(self) -> int:
        """The last revocation's number."""
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.connect() as connection:
                return (await connection.execute(sa.select(sa.func.max(revocations.c.revision)))).scalar() or 0

    async def knows(self, revision: int) -> bool:
        """Whether a revocation has this number: one that is kept no longer, or another database's, has not."""
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.connect() as connection:
                query = sa.select(revocations.c.revision).where(revocations.c.revision == revision)
                return (await connection.execute(query)).scalar() is not None

    async def after(self, revision: int, *, limit: int) -> list[Recorded]:
        """At most `limit` revocations behind a number, in order."""
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.connect() as connection:
                query = sa.select(revocations).where(revocations.c.revision > revision)
                rows = (await connection.execute(query.order_by(revocations.c.revision).limit(limit))).all()
        return [Recorded(row.revision, _to_revocation(row.kind, row.name)) for row in rows]


def _to_revocation(kind: str, name: str) -> Revocation | None:
    return Revocation(RevocationKind(kind), name) if kind else None
