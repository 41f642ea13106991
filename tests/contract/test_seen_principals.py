"""What is known of principals that were seen, on each database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from services.auth.seen import SeenPrincipals
from services.auth.store import KeyStore
from services.auth.tables import principals
from services.core.errors import Reason, ServiceError
from services.core.principal import CredentialKind, Identity, Permissions, Principal, Role
from services.core.quota import Quota, SubjectQuota
from services.runtime.database import open_database
from tests.testing.parts import requires_part

ALICE = Principal(
    "users/alice@anl.gov",
    frozenset({Role.USER}),
    Permissions(("*",)),
    Identity(
        CredentialKind.GLOBUS, "a-uuid", "alice@anl.gov", "Alice", "anl.gov", groups=frozenset({"g1", "g2"}), mfa=True
    ),
    (SubjectQuota("users/alice@anl.gov", Quota(tokens_per_minute=1000)),),
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=requires_part("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/auth.db"
    postgresql_url: str = request.getfixturevalue("postgresql_url")
    return postgresql_url


@pytest.fixture
async def engine(url: str, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = open_database(url, tmp_path / "auth.db", setting="auth.database")
    await KeyStore(engine).start()
    yield engine
    await engine.dispose()


async def test_written_behind_and_found_at_once(engine: AsyncEngine) -> None:
    seen, other = SeenPrincipals(engine), SeenPrincipals(engine)
    assert await seen.find(ALICE.name) is None
    seen.note(ALICE, 1000.5)
    assert await seen.find(ALICE.name) == (ALICE, 1000.5)
    assert await other.find(ALICE.name) is None
    await seen.write()
    assert await other.find(ALICE.name) == (ALICE, 1000.5)
    await seen.write()


async def test_the_latest_counts_whoever_writes_last(engine: AsyncEngine) -> None:
    one, two = SeenPrincipals(engine), SeenPrincipals(engine)
    one.note(ALICE, 1000.0)
    two.note(Principal(ALICE.name), 2000.0)
    await two.write()
    await one.write()
    assert await one.find(ALICE.name) == (Principal(ALICE.name), 2000.0)


async def test_many_in_batches(engine: AsyncEngine) -> None:
    seen = SeenPrincipals(engine)
    for number in range(1203):
        seen.note(Principal(f"users/{number}"), float(number))
    await seen.write()
    async with engine.connect() as connection:
        assert (await connection.execute(sa.select(sa.func.count()).select_from(principals))).scalar_one() == 1203
    assert await seen.find("users/1202") == (Principal("users/1202"), 1202.0)


async def test_memory_is_bounded(engine: AsyncEngine) -> None:
    seen = SeenPrincipals(engine, capacity=2)
    for name in ("users/a", "users/b", "users/c"):
        seen.note(Principal(name), 1.0)
    seen.note(Principal("users/a"), 2.0)
    assert await seen.find("users/a") == (Principal("users/a"), 2.0)
    assert await seen.find("users/c") is None


async def test_who_was_not_seen_for_long_is_forgotten(engine: AsyncEngine) -> None:
    seen = SeenPrincipals(engine)
    for number in range(5):
        seen.note(Principal(f"users/{number}"), float(number))
    await seen.write()
    assert await seen.prune(4.0, 3) == 3, "no more than asked for"
    assert await seen.prune(4.0, 3) == 1
    assert await seen.prune(4.0, 3) == 0
    async with engine.connect() as connection:
        assert (await connection.execute(sa.select(principals.c.name))).scalars().all() == ["users/4"]


async def test_a_database_that_is_away_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "auth.db"
    engine = open_database("", file, setting="auth.database")
    seen = SeenPrincipals(engine)
    seen.note(ALICE, 1.0)
    file.unlink()
    file.mkdir()  # Where the database's file should be.
    await seen.write()
    assert "written later" in caplog.text
    with pytest.raises(ServiceError) as caught:
        await seen.find("users/bob")
    assert caught.value.reason is Reason.AUTH_UNAVAILABLE
    assert await seen.find(ALICE.name) == (ALICE, 1.0)
    file.rmdir()
    await KeyStore(engine).start()
    await seen.write()
    assert await SeenPrincipals(engine).find(ALICE.name) == (ALICE, 1.0)
    await engine.dispose()
