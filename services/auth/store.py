"""Keys in a database, SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from services.auth.keys import Key
from services.auth.tables import VERSION_TABLE, keys, metadata, signing_keys
from services.auth.tokens import SigningKey, from_bytes, to_bytes
from services.core.errors import Reason
from services.core.principal import Permissions, Principal, Role
from services.runtime.database import explained, upgrade

HEAD: Final = "0003"
"""The newest of `migrations/versions`; a test holds the two together."""

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
AWAY: Final = "Auth's database does not answer; try again shortly."


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
        """Stores a key, or changes the one with the same id; when that was made and revoked stays."""
        row = _to_row(key)
        changed = {name: value for name, value in row.items() if name not in ("id", "created_at", "revoked_at")}
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                # In one statement: of two auths that put the same key at once, neither may fail.
                insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
                upsert = insert(keys).values(**row).on_conflict_do_update(index_elements=[keys.c.id], set_=changed)
                await connection.execute(upsert)

    async def revoke(self, identity: str, now: float) -> Key | None:
        """Revokes a key, and gives it as it is then; the moment of an earlier revocation stays."""
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                unrevoked = sa.and_(keys.c.id == identity, keys.c.revoked_at.is_(None))
                await connection.execute(sa.update(keys).where(unrevoked).values(revoked_at=now))
        return await self.find(identity)

    async def signing_keys(self) -> list[SigningKey]:
        """The keys that tokens were signed with, newest first."""
        query = sa.select(signing_keys).order_by(signing_keys.c.created_at.desc(), signing_keys.c.id)
        return [from_bytes(row.id, row.private_key) for row in await self._read(query)]

    async def add_signing_key(self, key: SigningKey, now: float) -> None:
        """Stores a key; from now on it is the newest."""
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.begin() as connection:
                values = {"id": key.id, "private_key": to_bytes(key), "created_at": now}
                await connection.execute(sa.insert(signing_keys).values(**values))

    async def _read(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with explained(Reason.AUTH_UNAVAILABLE, AWAY):
            async with self._engine.connect() as connection:
                rows: Sequence[sa.Row[Any]] = (await connection.execute(query)).all()
                return rows


def _to_key(row: sa.Row[Any]) -> Key:
    permissions = Permissions(tuple(row.allow_models), tuple(row.deny_models), tuple(row.allow_endpoints))
    roles = frozenset(Role[role] for role in row.roles if role in Role.__members__)
    principal = Principal(row.principal, roles, permissions)
    return Key(row.id, row.digest, principal, row.display_name, row.created_at, row.expires_at, row.revoked_at)


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
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }
