"""What auth's store promises, on each database."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from services.auth.bootstrap import ensure_keys
from services.auth.config import DEFAULT_KEYS, BootstrapKey
from services.auth.keys import Key, digest, identity_of, split, successor_of
from services.auth.store import HEAD, KeyStore
from services.auth.tables import VERSION_TABLE, metadata
from services.core.errors import Reason, ServiceError
from services.core.principal import Permissions, Principal, Role
from services.runtime.database import open_database
from tests.testing.parts import requires_part
from tests.testing.postgresql import Postgresql

OpenStore = Callable[[], Awaitable[KeyStore]]

ADA = Principal(
    "users/ada@anl.gov",
    frozenset({Role.USER, Role.ADMIN}),
    Permissions(("*",), ("secret/*",), ("clusters/a/*",), ("chat/completions",)),
)


def key(identity: str, principal: Principal = ADA, **fields: Any) -> Key:
    principal = replace(principal, identity=identity_of(identity, principal.name, ["g1", "g2"]))
    fields = {"expires_at": 2000.5, **fields}
    return Key(identity, digest(identity), principal, "for tests", 1000.25, **fields)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=requires_part("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/auth.db"
    postgresql_url: str = request.getfixturevalue("postgresql_url")
    return postgresql_url


@pytest.fixture
async def open_store(url: str, tmp_path: Path) -> AsyncIterator[OpenStore]:
    """Opens the same database as often as it is called."""
    stores: list[KeyStore] = []

    async def open_one() -> KeyStore:
        stores.append(KeyStore(open_database(url, tmp_path / "auth.db", setting="auth.database")))
        await stores[-1].start()
        return stores[-1]

    yield open_one
    for store in stores:
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore) -> KeyStore:
    return await open_store()


async def test_a_key_comes_back_as_it_was(store: KeyStore, open_store: OpenStore) -> None:
    await store.put(key("aa"))
    assert await store.find("aa") == key("aa")
    assert await (await open_store()).find("aa") == key("aa"), "to another auth too"
    assert await store.find("bb") is None
    assert await store.find("") is None


async def test_putting_again_changes_grants_but_not_its_history(store: KeyStore) -> None:
    await store.put(key("aa"))
    await store.revoke("aa", 1500.0)
    other = Principal("services/s", frozenset({Role.SERVICE}))
    changed = replace(key("aa", other), created_at=1.0, expires_at=None)
    await store.put(changed)
    assert await store.find("aa") == replace(changed, created_at=1000.25, expires_at=2000.5, revoked_at=1500.0)


async def test_revoking_lasts_and_keeps_its_first_moment(store: KeyStore) -> None:
    await store.put(key("aa"))
    assert await store.revoke("aa", 1500.0) == replace(key("aa"), revoked_at=1500.0)
    assert await store.revoke("aa", 1600.0) == replace(key("aa"), revoked_at=1500.0)
    assert await store.revoke("bb", 1500.0) is None


async def test_pages_are_in_the_order_of_ids(store: KeyStore) -> None:
    ids = ["0a", "a0", "a-", "b1", "ff"]
    for identity in reversed(ids):
        await store.put(key(identity, ADA if identity != "b1" else Principal("users/bob")))
    assert [found.id for found in await store.page(limit=10)] == sorted(ids)
    assert [found.id for found in await store.page(after="a-", limit=2)] == ["a0", "b1"]
    assert [found.id for found in await store.page(limit=10, principal="users/bob")] == ["b1"]
    assert await store.page(after="ff", limit=10) == []


async def test_the_migrations_make_what_the_tables_say(store: KeyStore, url: str, tmp_path: Path) -> None:
    engine = open_database(url, tmp_path / "auth.db", setting="auth.database")

    def differences(connection: sa.Connection) -> list[object]:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert context.get_current_revision() == HEAD
        return list(compare_metadata(context, metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_several_that_start_at_once_agree(open_store: OpenStore, tmp_path: Path) -> None:
    stores = await asyncio.gather(*(open_store() for _ in range(4)))
    await asyncio.gather(*(ensure_keys(DEFAULT_KEYS, store, tmp_path) for store in stores))
    for wanted in DEFAULT_KEYS:
        file = tmp_path / wanted.file
        parts = split(file.read_text().strip())
        assert parts is not None
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        found = [await store.find(parts[0]) for store in stores]
        assert found[0] is not None
        assert (found[0].digest, found[0].principal.name) == (digest(parts[1]), wanted.principal)
        assert found == [found[0]] * len(stores)
    assert len(await stores[0].page(limit=10)) == len(DEFAULT_KEYS), "no key but those in the files"
    assert {name for name in os.listdir(tmp_path) if ".key" in name} == {one.file for one in DEFAULT_KEYS}


async def test_the_configuration_decides_what_a_bootstrap_key_may(store: KeyStore, tmp_path: Path) -> None:
    await ensure_keys((BootstrapKey("a.key", "users/a"),), store, tmp_path)
    text = (tmp_path / "a.key").read_text()
    await ensure_keys((BootstrapKey("a.key", "users/b", roles=("admin",), allow_models=("m",)),), store, tmp_path)
    assert (tmp_path / "a.key").read_text() == text
    (found,) = await store.page(limit=10)
    identity = identity_of(found.id, "users/b", ())
    assert found.principal == Principal("users/b", frozenset({Role.ADMIN}), Permissions(("m",)), identity)


async def test_a_key_in_a_file_is_taken_into_an_empty_database(store: KeyStore, tmp_path: Path) -> None:
    (tmp_path / "a.key").write_text("weft_0123456789ab_" + "s" * 43 + "\n")
    await ensure_keys((BootstrapKey("a.key", "users/a"),), store, tmp_path)
    found = await store.find("0123456789ab")
    assert found is not None
    assert found.digest == digest("s" * 43)


async def test_a_revoked_bootstrap_key_stays_revoked(store: KeyStore, tmp_path: Path) -> None:
    await ensure_keys((BootstrapKey("a.key", "users/a"),), store, tmp_path)
    (made,) = await store.page(limit=10)
    await store.revoke(made.id, 1500.0)
    await ensure_keys((BootstrapKey("a.key", "users/other"),), store, tmp_path)
    (found,) = await store.page(limit=10)
    assert found.revoked_at == 1500.0


async def test_a_rotated_bootstrap_key_ends_when_it_is_due_and_its_file_takes_the_successor(
    store: KeyStore, tmp_path: Path
) -> None:
    wanted = (BootstrapKey("a.key", "users/a", groups=("g",), allow_operations=("embeddings",)),)
    await ensure_keys(wanted, store, tmp_path)
    (made,) = await store.page(limit=10)
    assert (made.principal.permissions.allow_operations, made.principal.identity.groups) == (("embeddings",), {"g"})
    credential, successor = successor_of(made, 1500.0, None)
    await store.rotate(made.id, successor, until=1600.0, now=1500.0)
    await ensure_keys(wanted, store, tmp_path)
    found = await store.find(made.id)
    assert found is not None
    assert (found.expires_at, found.successor) == (1600.0, f"keys/{successor.id}"), "a restart does not revive it"
    (tmp_path / "a.key").write_text(credential)
    await ensure_keys(wanted, store, tmp_path)
    assert len(await store.page(limit=10)) == 2, "no third one is made"


@pytest.mark.parametrize(
    ("wanted", "word"), [(BootstrapKey("bad.key", "users/a"), "bad.key"), (BootstrapKey("a.key", "u", "", ("x",)), "x")]
)
async def test_a_wrong_file_or_role_is_told(store: KeyStore, tmp_path: Path, wanted: BootstrapKey, word: str) -> None:
    (tmp_path / "bad.key").write_text("not a key, but perhaps a secret")
    with pytest.raises(ServiceError, match=word) as caught:
        await ensure_keys((wanted,), store, tmp_path)
    assert caught.value.reason is Reason.ARGUMENT_INVALID
    assert "secret" not in str(caught.value)


@requires_part("postgresql")
async def test_a_database_that_stops_is_told_and_found_again(postgresql: Postgresql, postgresql_url: str) -> None:
    store = KeyStore(open_database(postgresql_url, Path("unused"), setting="auth.database"))
    await store.start()
    await store.put(key("aa"))
    postgresql.stop()
    try:
        with pytest.raises(ServiceError) as caught:
            await store.find("aa")
        assert caught.value.reason is Reason.AUTH_UNAVAILABLE
    finally:
        postgresql.start()
    assert await store.find("aa") == key("aa")
    await store.close()


def other(identity: str, principal: Principal = ADA) -> Key:
    return key(identity, principal, expires_at=9000.0)


async def test_a_rotated_key_ends_with_the_overlap_and_its_successor_is_there(store: KeyStore) -> None:
    await store.put(key("aa", expires_at=None))
    await store.rotate("aa", other("bb"), until=1600.0, now=1500.0)
    assert await store.find("aa") == key("aa", expires_at=1600.0, successor="keys/bb")
    assert await store.find("bb") == other("bb")


async def test_a_rotated_key_lives_no_longer_than_it_would_have(store: KeyStore) -> None:
    await store.put(key("aa"))
    await store.rotate("aa", other("bb"), until=99_000.0, now=1500.0)
    assert await store.find("aa") == key("aa", successor="keys/bb")


async def test_of_many_that_rotate_one_key_one_has_its_way(open_store: OpenStore) -> None:
    stores = [await open_store() for _ in range(4)]
    await stores[0].put(key("aa"))
    rotations = (
        store.rotate("aa", other(f"b{number}"), until=1600.0, now=1500.0) for number, store in enumerate(stores)
    )
    outcomes = await asyncio.gather(*rotations, return_exceptions=True)
    assert outcomes.count(None) == 1
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, ServiceError)} == {Reason.RESOURCE_CHANGED}
    assert len(await stores[0].page(limit=10)) == 2, "nothing is left of the others"


async def test_what_is_over_is_not_rotated_and_the_remedy_is_told(store: KeyStore) -> None:
    for identity in ("revoked", "expired", "rotated"):
        await store.put(key(identity))
    await store.revoke("revoked", 1400.0)
    await store.rotate("rotated", other("bb"), until=1600.0, now=1500.0)
    for identity, now, words in (
        ("revoked", 1500.0, "revoked; make a new key with 'weft keys create'"),
        ("expired", 2000.5, "expired; make a new key with 'weft keys create'"),
        ("rotated", 1500.0, "its successor is 'keys/bb'"),
    ):
        with pytest.raises(ServiceError, match=words) as caught:
            await store.rotate(identity, other("cc"), until=1600.0, now=now)
        assert caught.value.reason is Reason.RESOURCE_CHANGED
    with pytest.raises(ServiceError) as caught:
        await store.rotate("none", other("cc"), until=1600.0, now=1500.0)
    assert caught.value.reason is Reason.RESOURCE_NOT_FOUND
    assert await store.find("cc") is None


async def test_the_last_use_of_keys_only_goes_on(store: KeyStore) -> None:
    for identity in ("aa", "bb"):
        await store.put(key(identity))
    await store.touch({"aa": 1500.0, "bb": 1501.0, "unknown": 1500.0})
    await store.touch({"aa": 1400.0, "bb": 1600.0})
    assert await store.find("aa") == key("aa", last_used_at=1500.0)
    assert await store.find("bb") == key("bb", last_used_at=1600.0)
