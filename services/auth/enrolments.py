"""Enrolments in auth's database."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.auth.enrolment import Enrolment, EnrolmentToken
from services.auth.revocations import record
from services.auth.tables import AWAY, enrolment_tokens, enrolments
from services.core.errors import Reason, ServiceError
from services.rpc.revocations import Revocation, RevocationKind
from services.runtime.database import explained

KEEP: Final = 30 * 86400.0
"""Seconds that an expired enrolment of which nothing is heard stays, so that it is still told why it is refused. A
worker that is attached is heard of at each renewal.
"""


class EnrolmentStore:
    """Which starts may enrol a worker. The key store's `start` makes its tables. Everything raises AUTH_UNAVAILABLE
    while the database does not answer.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def put(self, wanted: Enrolment, token: EnrolmentToken, now: float) -> Enrolment:
        """Stores a further token of a start, which lasts from now on as long as the longest of them; and clears away
        what is long over. Raises RESOURCE_EXISTS if the start is another endpoint's or principal's, ACTION_FORBIDDEN
        if it was revoked.
        """
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                row = {"start": wanted.start, "endpoint": wanted.endpoint, "serves": wanted.serves}
                await self._insert(connection, {**row, "expires_at": wanted.expires_at, "touched_at": now})
                same = sa.and_(*(enrolments.c[name] == value for name, value in row.items()))
                live = sa.and_(same, enrolments.c.revoked_at.is_(None))
                longer = sa.case(
                    (enrolments.c.expires_at > wanted.expires_at, enrolments.c.expires_at), else_=wanted.expires_at
                )
                change = sa.update(enrolments).where(live).values(expires_at=longer, touched_at=now)
                changed = (await connection.execute(change)).rowcount
                kept = await self._find(connection, wanted.start)
                assert kept is not None
                if not changed:
                    raise _unlike(kept)
                values = {"id": token.id, "digest": token.digest, "start": token.start}
                await connection.execute(sa.insert(enrolment_tokens).values(**values))
                await self._clear(connection, now)
                return kept

    async def token(self, identity: str) -> EnrolmentToken | None:
        """The token with this id."""
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.connect() as connection:
                query = sa.select(enrolment_tokens).where(enrolment_tokens.c.id == identity)
                row = (await connection.execute(query)).one_or_none()
                return EnrolmentToken(row.id, row.digest, row.start) if row is not None else None

    async def find(self, start: str) -> Enrolment | None:
        """What is known of a start."""
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.connect() as connection:
                return await self._find(connection, start)

    async def admit(self, start: str, endpoint: str, instance: str, now: float) -> bool:
        """Admits the instance, if the start has none yet and stands; the same one is admitted again, expired or not:
        the answer may have been lost, or a long outage outlived its session token.
        """
        fresh = sa.and_(enrolments.c.instance.is_(None), enrolments.c.expires_at > now)
        # In one statement: of several that ask at once, on however many auths, one changes the row.
        admitted = (
            enrolments.c.start == start,
            enrolments.c.endpoint == endpoint,
            enrolments.c.revoked_at.is_(None),
            sa.or_(fresh, enrolments.c.instance == instance),
        )
        return await self._change(sa.update(enrolments).where(*admitted).values(instance=instance, touched_at=now))

    async def renew(self, start: str, endpoint: str, instance: str, now: float) -> bool:
        """Whether the instance that was admitted is still wanted."""
        wanted = (
            enrolments.c.start == start,
            enrolments.c.endpoint == endpoint,
            enrolments.c.instance == instance,
            enrolments.c.revoked_at.is_(None),
        )
        return await self._change(sa.update(enrolments).where(*wanted).values(touched_at=now))

    async def revoke(self, start: str, now: float) -> None:
        """Ends an enrolment, if need be before it begins, and tells it to those who watch; the moment of an earlier
        revocation stays.
        """
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                await self._insert(
                    connection, {"start": start, "endpoint": "", "serves": "", "expires_at": now, "touched_at": now}
                )
                unrevoked = sa.and_(enrolments.c.start == start, enrolments.c.revoked_at.is_(None))
                change = sa.update(enrolments).where(unrevoked).values(revoked_at=now, touched_at=now)
                if (await connection.execute(change)).rowcount:  # the launcher revokes again and again
                    await record(connection, Revocation(RevocationKind.START, start), now)

    async def _change(self, statement: sa.Update) -> bool:
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                return (await connection.execute(statement)).rowcount == 1

    @staticmethod
    async def _insert(connection: AsyncConnection, row: dict[str, Any]) -> None:
        """Makes the row if there is none: of two auths that do so at once, neither may fail."""
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        await connection.execute(insert(enrolments).values(**row).on_conflict_do_nothing())

    @staticmethod
    async def _find(connection: AsyncConnection, start: str) -> Enrolment | None:
        row = (await connection.execute(sa.select(enrolments).where(enrolments.c.start == start))).one_or_none()
        if row is None:
            return None
        return Enrolment(row.start, row.endpoint, row.serves, row.expires_at, row.instance, row.revoked_at)

    @staticmethod
    async def _clear(connection: AsyncConnection, now: float) -> None:
        over = sa.and_(enrolments.c.expires_at < now - KEEP, enrolments.c.touched_at < now - KEEP)
        starts = sa.select(enrolments.c.start).where(over)
        await connection.execute(sa.delete(enrolment_tokens).where(enrolment_tokens.c.start.in_(starts)))
        await connection.execute(sa.delete(enrolments).where(over))


def _unlike(kept: Enrolment) -> ServiceError:
    if kept.revoked_at is not None:
        return ServiceError(Reason.ACTION_FORBIDDEN, f"The start '{kept.start}' was revoked.", param="start")
    message = f"The start '{kept.start}' is another endpoint's or principal's, and stays so; take another name."
    return ServiceError(Reason.RESOURCE_EXISTS, message, param="start")
