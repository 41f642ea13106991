"""Brings the database's schema to the one that this version needs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa

HEAD: Final = "0001"
"""The newest of `migrations/versions`; a test holds the two together."""

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x77656674  # "weft": two registries that start at once on one PostgreSQL must not both migrate.


def upgrade(connection: sa.Connection) -> None:
    """Migrates the database if it is not at `HEAD`, within the connection's transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    if _version(connection) == HEAD:
        return
    # Imported here: alembic costs a third of a second, and hardly a start needs it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return version
