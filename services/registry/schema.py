"""Brings the database's schema to the one that this version needs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa

HEAD: Final = "0001"
"""The newest of `migrations/versions`; a test holds the two together."""

VERSION_TABLE: Final = "registry_schema_version"
"""Not alembic's default: auth may live in the same database, with a history of its own."""

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
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    table = sa.table(VERSION_TABLE, sa.column("version_num", sa.Text))
    version: str | None = connection.execute(sa.select(table.c.version_num)).scalar()
    return version
