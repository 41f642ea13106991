"""Principals that are denied everything, in auth's database."""

from __future__ import annotations

from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from services.auth.revocations import record
from services.auth.tables import AWAY, denials
from services.core.errors import Reason, ServiceError
from services.core.principal import denied_as
from services.rpc.revocations import Revocation, RevocationKind
from services.runtime.database import explained, reading


@dataclass(frozen=True, slots=True)
class Denial:
    """Who is denied, why, and since when (seconds since 1970)."""

    principal: str
    comment: str
    created_at: float


class DenialStore:
    """The denials, by `denied_as`. The key store's `start` makes their table. Everything raises AUTH_UNAVAILABLE while
    the database does not answer.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def check(self, principal: str) -> None:
        """Raises IDENTITY_FORBIDDEN if the principal is denied; without the comment, which is not for its ears."""
        if await self.find(principal) is not None:
            raise ServiceError(
                Reason.IDENTITY_FORBIDDEN,
                f"'{principal}' is denied here by an administrator; ask yours.",
                principal=principal,
            )

    async def find(self, principal: str) -> Denial | None:
        """The principal's denial."""
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with reading(self._engine) as connection:
                query = sa.select(denials).where(denials.c.principal == denied_as(principal))
                row = (await connection.execute(query)).one_or_none()
                return Denial(row.principal, row.comment, row.created_at) if row is not None else None

    async def page(self, *, after: str = "", limit: int) -> list[Denial]:
        """At most `limit` denials behind a principal, in order."""
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with reading(self._engine) as connection:
                query = sa.select(denials).where(denials.c.principal > after).order_by(denials.c.principal).limit(limit)
                rows = (await connection.execute(query)).all()
                return [Denial(row.principal, row.comment, row.created_at) for row in rows]

    async def deny(self, denial: Denial) -> Denial:
        """Denies a principal, and tells it to those who watch. Of one that is denied already, the moment stays."""
        denial = replace(denial, principal=denied_as(denial.principal))
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
                row = {"principal": denial.principal, "comment": denial.comment, "created_at": denial.created_at}
                change = {"comment": denial.comment}
                upsert = insert(denials).values(**row)
                await connection.execute(
                    upsert.on_conflict_do_update(index_elements=[denials.c.principal], set_=change)
                )
                query = sa.select(denials.c.created_at).where(denials.c.principal == denial.principal)
                since = (await connection.execute(query)).scalar_one()
                revocation = Revocation(RevocationKind.PRINCIPAL, denial.principal)
                await record(connection, revocation, denial.created_at)
        return replace(denial, created_at=since)

    async def admit(self, principal: str, now: float) -> bool:
        """Ends a denial, and tells it to those who watch; False if there is none."""
        principal = denied_as(principal)
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                change = sa.delete(denials).where(denials.c.principal == principal)
                if not (await connection.execute(change)).rowcount:
                    return False
                await record(connection, Revocation(RevocationKind.CHANGED, principal), now)
                return True
