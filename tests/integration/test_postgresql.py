"""The server that the PostgreSQL tests run on: each test has an empty database of its own."""

import asyncpg

from tests.testing.postgresql import Postgresql


def dsn(url: str) -> str:
    return url.replace("postgresql+asyncpg://", "postgresql://")


async def test_databases_are_apart(postgresql: Postgresql, postgresql_url: str) -> None:
    other_url = postgresql.create_database("other")
    one, other = await asyncpg.connect(dsn(postgresql_url)), await asyncpg.connect(dsn(other_url))
    try:
        await one.execute("CREATE TABLE things (name text)")
        assert await one.fetchval("SELECT to_regclass('things')::text") == "things"
        assert await other.fetchval("SELECT to_regclass('things')::text") is None
    finally:
        await one.close()
        await other.close()


async def test_stops_and_starts_with_its_data(postgresql: Postgresql, postgresql_url: str) -> None:
    before = await asyncpg.connect(dsn(postgresql_url))
    await before.execute("CREATE TABLE kept (name text)")
    await before.close()
    postgresql.stop()
    postgresql.start()
    after = await asyncpg.connect(dsn(postgresql_url))
    try:
        assert await after.fetchval("SELECT to_regclass('kept')::text") == "kept"
    finally:
        await after.close()
