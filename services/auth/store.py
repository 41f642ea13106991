"""Keys in a database, SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from services.auth.keys import Key, identity_of, rotation_refusal
from services.auth.revocations import record
from services.auth.tables import AWAY, VERSION_TABLE, keys, metadata
from services.core.errors import Reason
from services.core.principal import Permissions, Principal, Role
from services.rpc.revocations import Revocation, RevocationKind
from services.runtime.database import NAME, explained, reading, upgrade

HEAD: Final = "0003"
"""The newest of `migrations/versions`; a test holds the two together."""

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_OWN_HISTORY: Final = frozenset({"id", "created_at", "expires_at", "revoked_at", "last_used_at", "successor"})


class KeyStore:
    """Auth's database. `start` before use. Everything raises AUTH_UNAVAILABLE while it does not answer."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def start(self) -> None:
        """Connects, and migrates the schema if need be."""
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                await connection.run_sync(upgrade, _MIGRATIONS, metadata, head=HEAD, table=VERSION_TABLE)

    async def close(self) -> None:
        """Closes the connections."""
        await self._engine.dispose()

    async def find(self, identity: str) -> Key | None:
        """The key with this id."""
        rows = await self._read(sa.select(keys).where(keys.c.id == identity))
        return _to_key(rows[0]) if rows else None

    async def page(self, *, after: str = "", limit: int, principal: str = "") -> list[Key]:
        """At most `limit` keys behind an id, in order; of one principal if it is not empty."""
        query = sa.select(keys).where(keys.c.id > after).order_by(keys.c.id).limit(limit)
        if principal:
            query = query.where(keys.c.principal == principal)
        return [_to_key(row) for row in await self._read(query)]

    async def put(self, key: Key) -> None:
        """Stores a key, or changes the one with the same id; what has happened to that stays."""
        row = _to_row(key)
        changed = {name: value for name, value in row.items() if name not in _OWN_HISTORY}
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                # In one statement: of two auths that put the same key at once, neither may fail.
                insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
                upsert = insert(keys).values(**row).on_conflict_do_update(index_elements=[keys.c.id], set_=changed)
                await connection.execute(upsert)

    async def revoke(self, identity: str, now: float) -> Key | None:
        """Revokes a key, tells it to those who watch, and gives it as it is then; the moment of an earlier revocation
        stays.
        """
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                unrevoked = sa.and_(keys.c.id == identity, keys.c.revoked_at.is_(None))
                change = sa.update(keys).where(unrevoked).values(revoked_at=now)
                if (await connection.execute(change)).rowcount:
                    await record(connection, Revocation(RevocationKind.KEY, f"keys/{identity}"), now)
        return await self.find(identity)

    async def rotate(self, identity: str, successor: Key, *, until: float, now: float) -> None:
        """Stores the successor of a key, which expires at `until` if it would live longer. Raises RESOURCE_NOT_FOUND,
        or RESOURCE_CHANGED if the key is revoked, expired or rotated.
        """
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                lives = sa.or_(keys.c.expires_at.is_(None), keys.c.expires_at > now)
                # In one statement: of two that rotate the same key at once, one has its way.
                wanted = (keys.c.id == identity, keys.c.revoked_at.is_(None), keys.c.successor == "", lives)
                sooner = sa.case((keys.c.expires_at < until, keys.c.expires_at), else_=until)
                change = sa.update(keys).where(*wanted).values(expires_at=sooner, successor=f"keys/{successor.id}")
                if not (await connection.execute(change)).rowcount:
                    row = (await connection.execute(sa.select(keys).where(keys.c.id == identity))).one_or_none()
                    raise rotation_refusal(_to_key(row) if row is not None else None, identity)
                await connection.execute(sa.insert(keys).values(**_to_row(successor)))
                # Those who keep what was said of the old key would believe it for longer than it lives now.
                kind = RevocationKind.KEY if until <= now else RevocationKind.CHANGED
                await record(connection, Revocation(kind, f"keys/{identity}"), now)

    async def touch(self, uses: Mapping[str, float]) -> None:
        """Notes when keys, by their ids, were last used."""
        stamp: sa.BindParameter[float] = sa.bindparam("stamp", type_=sa.Double)
        which: sa.BindParameter[str] = sa.bindparam("which", type_=NAME)
        # Another auth may have seen it since.
        later = sa.or_(keys.c.last_used_at.is_(None), keys.c.last_used_at < stamp)
        change = sa.update(keys).where(keys.c.id == which, later).values(last_used_at=stamp)
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                # In order: two auths that write at once must not each wait for a row of the other's.
                await connection.execute(change, [{"stamp": uses[one], "which": one} for one in sorted(uses)])

    async def _read(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with reading(self._engine) as connection:
                rows: Sequence[sa.Row[Any]] = (await connection.execute(query)).all()
                return rows


def _to_key(row: sa.Row[Any]) -> Key:
    permissions = Permissions(
        tuple(row.allow_models), tuple(row.deny_models), tuple(row.allow_endpoints), tuple(row.allow_operations)
    )
    roles = frozenset(Role[role] for role in row.roles if role in Role.__members__)
    return Key(
        row.id,
        row.digest,
        Principal(row.principal, roles, permissions, identity_of(row.id, row.principal, row.groups)),
        row.display_name,
        row.created_at,
        row.expires_at,
        row.revoked_at,
        row.last_used_at,
        row.successor,
    )


def _to_row(key: Key) -> dict[str, Any]:
    permissions = key.principal.permissions
    return {
        "id": key.id,
        "digest": key.digest,
        "principal": key.principal.name,
        "display_name": key.display_name,
        "roles": sorted(role.name for role in key.principal.roles),
        "allow_models": permissions.allow_models,
        "deny_models": permissions.deny_models,
        "allow_endpoints": permissions.allow_endpoints,
        "allow_operations": permissions.allow_operations,
        "groups": sorted(key.principal.identity.groups),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
        "successor": key.successor,
    }
