"""What auth's lists of denials and revocations, and its signing keys, promise, on each database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine
from weft.auth.v1 import auth_pb2

from services.auth.denials import Denial, DenialStore
from services.auth.enrolments import EnrolmentStore
from services.auth.keys import Key, digest
from services.auth.revocation_hub import RevocationHub
from services.auth.revocations import KEEP, RevocationStore
from services.auth.signing_keys import SigningKeyStore
from services.auth.store import KeyStore
from services.core.errors import Reason, ServiceError
from services.core.principal import Principal
from services.router.revoked import RevokedTokens
from services.rpc.revocations import Revocation, RevocationKind
from services.rpc.session_token import SessionClaims
from services.runtime.database import open_database
from tests.testing.parts import requires_part

ADA = "users/ada"
NOW = 1_700_000_000.0
SOON = 20.0


@dataclass(frozen=True, slots=True)
class Stores:
    engine: AsyncEngine

    @property
    def keys(self) -> KeyStore:
        return KeyStore(self.engine)

    @property
    def denials(self) -> DenialStore:
        return DenialStore(self.engine)

    @property
    def enrolments(self) -> EnrolmentStore:
        return EnrolmentStore(self.engine)

    @property
    def revocations(self) -> RevocationStore:
        return RevocationStore(self.engine)

    @property
    def signing_keys(self) -> SigningKeyStore:
        return SigningKeyStore(self.engine)

    async def told(self, after: int = 0) -> list[Revocation]:
        return [one.revocation for one in await self.revocations.after(after, limit=1000) if one.revocation]


OpenStores = Callable[[], Awaitable[Stores]]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=requires_part("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/auth.db"
    postgresql_url: str = request.getfixturevalue("postgresql_url")
    return postgresql_url


@pytest.fixture
async def open_stores(url: str, tmp_path: Path) -> AsyncIterator[OpenStores]:
    """Opens the same database as often as it is called."""
    engines: list[AsyncEngine] = []

    async def open_one() -> Stores:
        engines.append(open_database(url, tmp_path / "auth.db", setting="auth.database"))
        stores = Stores(engines[-1])
        await stores.keys.start()
        await stores.revocations.start(NOW - 10)
        return stores

    yield open_one
    for engine in engines:
        await engine.dispose()


@pytest.fixture
async def stores(open_stores: OpenStores) -> Stores:
    return await open_stores()


def key(identity: str) -> Key:
    return Key(identity, digest(identity), Principal(ADA), "", NOW)


async def test_a_denial_lasts_until_the_principal_is_admitted(stores: Stores, open_stores: OpenStores) -> None:
    assert await stores.denials.deny(Denial(ADA, "left", NOW)) == Denial(ADA, "left", NOW)
    again = await stores.denials.deny(Denial(ADA, "left us", NOW + 1))
    assert again == Denial(ADA, "left us", NOW), "since when stays"
    with pytest.raises(ServiceError) as caught:
        await (await open_stores()).denials.check(ADA)
    assert caught.value.reason is Reason.IDENTITY_FORBIDDEN
    assert "left" not in caught.value.message, "the comment is for administrators"
    await stores.denials.check("users/adam")
    assert await stores.denials.admit(ADA, NOW)
    assert not await stores.denials.admit(ADA, NOW)
    await stores.denials.check(ADA)


async def test_who_is_denied_is_denied_however_it_is_written(stores: Stores) -> None:
    """Addresses come with capitals by mail, and without by tokens; a key's principal is as its maker wrote it."""
    await stores.denials.deny(Denial("users/Ada@ANL.gov", "left", NOW))
    await stores.denials.deny(Denial("users/ada@anl.gov", "left for good", NOW + 1))
    assert await stores.denials.page(limit=9) == [Denial("users/ada@anl.gov", "left for good", NOW)]
    for name in ("users/ada@anl.gov", "users/ADA@anl.gov"):
        with pytest.raises(ServiceError):
            await stores.denials.check(name)
    assert await stores.denials.admit("users/ADA@ANL.GOV", NOW)
    await stores.denials.check("users/ada@anl.gov")
    assert {one.name for one in await stores.told()} == {"users/ada@anl.gov"}


async def test_who_calls_is_found_out_while_somebody_writes(open_stores: OpenStores) -> None:
    writing, stores = await open_stores(), await open_stores()
    await stores.keys.put(key("aa"))
    async with writing.engine.begin() as connection:
        await connection.execute(sa.text("DELETE FROM auth_denials"))
        async with asyncio.timeout(SOON):
            assert await stores.keys.find("aa") is not None
            await stores.denials.check(ADA)


async def test_denials_have_pages(stores: Stores) -> None:
    for name in ("users/b", "users/a", "services/c"):
        await stores.denials.deny(Denial(name, "", NOW))
    first = await stores.denials.page(limit=2)
    assert [one.principal for one in first] == ["services/c", "users/a"]
    assert [one.principal for one in await stores.denials.page(after="users/a", limit=2)] == ["users/b"]


async def test_all_that_is_revoked_is_told_in_order_and_once(stores: Stores) -> None:
    for identity in ("aa", "bb", "cc"):
        await stores.keys.put(key(identity))
    for _ in range(2):
        await stores.keys.revoke("aa", NOW)
        await stores.enrolments.revoke("start-1", NOW)
    await stores.keys.revoke("unknown", NOW)
    await stores.denials.deny(Denial(ADA, "", NOW))
    await stores.denials.admit(ADA, NOW)
    await stores.keys.rotate("bb", key("b2"), until=NOW + 60, now=NOW)
    await stores.keys.rotate("cc", key("c2"), until=NOW, now=NOW)
    assert await stores.told() == [
        Revocation(RevocationKind.KEY, "keys/aa"),
        Revocation(RevocationKind.START, "start-1"),
        Revocation(RevocationKind.PRINCIPAL, ADA),
        Revocation(RevocationKind.CHANGED, ADA),
        Revocation(RevocationKind.CHANGED, "keys/bb"),
        Revocation(RevocationKind.KEY, "keys/cc"),
    ]


async def test_a_key_that_is_rotated_ends_no_denial(stores: Stores) -> None:
    """Routers take a principal of whom something has changed for one that is denied no longer."""
    await stores.keys.put(key("aa"))
    await stores.denials.deny(Denial(ADA, "", NOW))
    await stores.keys.rotate("aa", key("a2"), until=NOW + 60, now=NOW)
    tokens = RevokedTokens()
    for revocation in await stores.told():
        tokens.note(revocation)
    assert tokens.refusal(SessionClaims("e", "i", ADA, NOW + 900, key="a2")) is not None


async def test_numbers_come_in_order_whoever_gives_them(open_stores: OpenStores) -> None:
    """One that is seen before a lower one would hide that from whoever follows."""
    several = [await open_stores() for _ in range(4)]
    seen: list[int] = []
    done = asyncio.Event()

    async def follow() -> None:
        at = 0
        while not done.is_set() or await several[0].revocations.newest() != at:
            for one in await several[0].revocations.after(at, limit=7):
                seen.append(one.revision)
                at = one.revision
            await asyncio.sleep(0.01)  # SQLite lets in one at a time, and those who write must get in

    async def deny(number: int) -> None:
        await several[number % 4].denials.deny(Denial(f"users/u{number}", "", NOW))

    following = asyncio.ensure_future(follow())
    await asyncio.gather(*(deny(number) for number in range(24)))
    done.set()
    async with asyncio.timeout(SOON):
        await following
    assert len(seen) == len(set(seen)) == 25
    assert seen == sorted(seen)


async def test_a_number_that_is_not_known_is_not_taken_for_one(stores: Stores) -> None:
    await stores.denials.deny(Denial(ADA, "", NOW))
    newest = await stores.revocations.newest()
    assert await stores.revocations.knows(newest)
    for other in (0, newest - 1, newest + 1):
        assert not await stores.revocations.knows(other)


async def test_what_is_long_over_is_kept_no_longer(stores: Stores) -> None:
    await stores.denials.deny(Denial("users/old", "", NOW))
    old = await stores.revocations.newest()
    await stores.denials.deny(Denial("users/new", "", NOW + KEEP + 1))
    assert await stores.told() == [Revocation(RevocationKind.PRINCIPAL, "users/new")]
    assert not await stores.revocations.knows(old)
    await stores.denials.deny(Denial("users/newer", "", NOW))  # a clock that went back
    assert await stores.revocations.newest() > old


async def test_starting_again_begins_nothing_anew(open_stores: OpenStores) -> None:
    first = await (await open_stores()).revocations.newest()
    assert first > 0
    assert await (await open_stores()).revocations.newest() == first


async def test_a_watcher_is_told_what_it_missed_and_what_comes(stores: Stores, open_stores: OpenStores) -> None:
    hub = RevocationHub(stores.revocations, poll=0.01)
    other = await open_stores()
    running = asyncio.ensure_future(hub.run())
    try:
        async with asyncio.timeout(SOON):
            first = await anext(hub.watch(0))
            assert first.reset
            await stores.denials.deny(Denial("users/missed", "", NOW))
            watch = hub.watch(first.revision)
            missed = await anext(watch)
            assert (missed.reset, [one.principal for one in missed.revocations]) == (False, ["users/missed"])
            following = asyncio.ensure_future(_news(watch))
            await other.denials.deny(Denial("users/here", "", NOW))  # by another auth: nobody wakes this one
            told = await following
            assert [one.principal for one in told.revocations] == ["users/here"]
            await watch.aclose()
            elsewhere = await anext(hub.watch(told.revision + 1))
            assert elsewhere.reset, "it has seen another database"
            assert [one.principal for one in elsewhere.revocations] == ["users/missed", "users/here"]
            assert elsewhere.revision == told.revision
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _news(watch: AsyncIterator[auth_pb2.WatchRevocationsResponse]) -> auth_pb2.WatchRevocationsResponse:
    """The next message that tells something: on a busy machine a heartbeat may come before it."""
    async for message in watch:
        if message.revocations:
            return message
    raise EOFError


async def test_a_watch_ends_with_its_auth(stores: Stores) -> None:
    hub = RevocationHub(stores.revocations)
    watch = hub.watch(0)
    await anext(watch)
    waiting = asyncio.ensure_future(anext(watch, None))
    await asyncio.sleep(0)
    hub.close()
    async with asyncio.timeout(SOON):
        assert await waiting is None


async def test_a_due_signing_key_is_followed_by_one_however_many_look(open_stores: OpenStores) -> None:
    several = [await open_stores() for _ in range(4)]
    for now, expected in ((NOW, 1), (NOW + 99, 1), (NOW + 100, 2)):
        await asyncio.gather(*(stores.signing_keys.rotate(now, life=100.0) for stores in several))
        assert len(await several[0].signing_keys.all()) == expected
    newest, former = await several[1].signing_keys.all()
    forced = await several[2].signing_keys.replace(NOW + 50)
    kept = await several[3].signing_keys.all()
    assert [one.id for one in kept] == [forced.id, newest.id, former.id], "the newest first, whatever the clock says"
    assert kept[0].public_bytes == forced.public_bytes


async def test_an_old_signing_key_stays_until_its_last_token_has_expired(stores: Stores) -> None:
    await stores.signing_keys.replace(NOW)
    fresh = await stores.signing_keys.replace(NOW + 1000)
    assert await stores.signing_keys.remove_old(NOW + 1000 + 900, token_life=900.0) == 0
    assert await stores.signing_keys.remove_old(NOW + 1000 + 900 + 61, token_life=900.0) == 1
    assert [one.id for one in await stores.signing_keys.all()] == [fresh.id]
    assert await stores.signing_keys.remove_old(NOW + 1e9, token_life=900.0) == 0, "the newest signs, however old"
