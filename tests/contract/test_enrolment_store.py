"""What auth's store of enrolments promises, on each database: one start admits one instance, once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from services.auth.enrolment import Enrolment, new_token
from services.auth.enrolments import KEEP, EnrolmentStore
from services.auth.store import KeyStore
from services.core.errors import Reason, ServiceError
from services.runtime.database import open_database
from tests.testing.parts import requires_part

OpenStore = Callable[[], Awaitable[EnrolmentStore]]

ENDPOINT = "clusters/local/endpoints/sim"
WANTED = Enrolment("start-1", ENDPOINT, "users/ada", 2000.0)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=requires_part("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/auth.db"
    postgresql_url: str = request.getfixturevalue("postgresql_url")
    return postgresql_url


@pytest.fixture
async def open_store(url: str, tmp_path: Path) -> AsyncIterator[OpenStore]:
    """Opens the same database as often as it is called."""
    engines = []

    async def open_one() -> EnrolmentStore:
        engines.append(open_database(url, tmp_path / "auth.db", setting="auth.database"))
        await KeyStore(engines[-1]).start()
        return EnrolmentStore(engines[-1])

    yield open_one
    for engine in engines:
        await engine.dispose()


@pytest.fixture
async def store(open_store: OpenStore) -> EnrolmentStore:
    return await open_store()


async def put(store: EnrolmentStore, wanted: Enrolment = WANTED, now: float = 1000.0) -> str:
    """Stores a further token of a start; gives its id."""
    _, token = new_token(wanted.start)
    await store.put(wanted, token, now)
    return token.id


async def refused(call: Awaitable[object]) -> Reason:
    with pytest.raises(ServiceError) as caught:
        await call
    return caught.value.reason


async def test_an_enrolment_and_its_token_come_back_as_they_were(store: EnrolmentStore, open_store: OpenStore) -> None:
    _, token = new_token("start-1")
    assert await store.put(WANTED, token, 1000.0) == WANTED
    other = await open_store()
    assert await other.find("start-1") == WANTED
    assert await other.token(token.id) == token
    assert (await store.find("start-2"), await store.token("none")) == (None, None)


async def test_of_twenty_that_ask_at_once_one_is_admitted(store: EnrolmentStore, open_store: OpenStore) -> None:
    await put(store)
    auths = [store, await open_store()]
    instances = [f"run-{number}" for number in range(20)]
    admitted = await asyncio.gather(
        *(auths[at % 2].admit("start-1", ENDPOINT, instance, 1500.0) for at, instance in enumerate(instances))
    )
    winners = [instance for instance, won in zip(instances, admitted, strict=True) if won]
    assert len(winners) == 1
    assert await store.find("start-1") == replace(WANTED, instance=winners[0])


async def test_the_admitted_one_is_admitted_again_and_no_other_ever(store: EnrolmentStore) -> None:
    await put(store)
    assert await store.admit("start-1", ENDPOINT, "run-1", 1500.0)
    for now in (1500.0, WANTED.expires_at + 1):  # its answer was lost; its session token has expired
        assert await store.admit("start-1", ENDPOINT, "run-1", now)
        assert not await store.admit("start-1", ENDPOINT, "run-2", now)
    assert await store.renew("start-1", ENDPOINT, "run-1", 5000.0)
    assert not await store.renew("start-1", ENDPOINT, "run-2", 5000.0)


async def test_who_is_not_admitted(store: EnrolmentStore) -> None:
    await put(store)
    assert not await store.admit("start-1", "clusters/local/endpoints/gpu", "run-1", 1500.0)
    assert not await store.admit("start-1", ENDPOINT, "run-1", WANTED.expires_at)
    assert not await store.admit("start-2", ENDPOINT, "run-1", 1500.0)
    assert not await store.renew("start-1", ENDPOINT, "run-1", 1500.0), "it was never admitted"


async def test_another_token_of_a_start_has_the_same_one_admission(store: EnrolmentStore) -> None:
    first = await put(store)
    await store.admit("start-1", ENDPOINT, "run-1", 1100.0)
    second = await put(store, replace(WANTED, expires_at=3000.0), 1200.0)
    await put(store, replace(WANTED, expires_at=2500.0), 1300.0)
    assert {(await store.token(one)).start for one in (first, second)} == {"start-1"}  # type: ignore[union-attr]
    assert await store.find("start-1") == replace(WANTED, expires_at=3000.0, instance="run-1")


async def test_a_start_keeps_what_it_was_made_for(store: EnrolmentStore) -> None:
    await put(store)
    for other in (replace(WANTED, endpoint="clusters/local/endpoints/gpu"), replace(WANTED, serves="")):
        assert await refused(put(store, other)) is Reason.RESOURCE_EXISTS
    assert await store.find("start-1") == WANTED


async def test_a_revoked_start_admits_and_renews_nobody(store: EnrolmentStore) -> None:
    await put(store)
    await store.admit("start-1", ENDPOINT, "run-1", 1100.0)
    await store.revoke("start-1", 1200.0)
    await store.revoke("start-1", 1300.0)
    assert await store.find("start-1") == replace(WANTED, instance="run-1", revoked_at=1200.0)
    assert not await store.admit("start-1", ENDPOINT, "run-1", 1400.0)
    assert not await store.renew("start-1", ENDPOINT, "run-1", 1400.0)
    assert await refused(put(store)) is Reason.ACTION_FORBIDDEN


async def test_a_start_revoked_before_it_was_known_stays_so(store: EnrolmentStore) -> None:
    await store.revoke("start-1", 900.0)
    assert await refused(put(store)) is Reason.ACTION_FORBIDDEN
    assert not await store.admit("start-1", ENDPOINT, "run-1", 1100.0)


async def test_several_that_issue_for_one_start_at_once_agree(store: EnrolmentStore, open_store: OpenStore) -> None:
    stores = [store, await open_store(), await open_store()]
    tokens = await asyncio.gather(*(put(one) for one in stores for _ in range(3)))
    assert len({(await store.token(token)).start for token in tokens}) == 1  # type: ignore[union-attr]
    assert await store.find("start-1") == WANTED


async def test_what_is_long_over_is_cleared_away_and_what_is_heard_of_is_not(store: EnrolmentStore) -> None:
    gone = await put(store)
    for start in ("attached", "waiting"):
        await put(store, replace(WANTED, start=start, expires_at=2000.0 if start == "attached" else 2 * KEEP))
    await store.admit("attached", ENDPOINT, "run-1", 1100.0)
    await store.renew("attached", ENDPOINT, "run-1", 2000.0 + KEEP)
    await put(store, replace(WANTED, start="fresh", expires_at=9e9), 2001.0 + KEEP)
    assert (await store.find("start-1"), await store.token(gone)) == (None, None)
    assert None not in [await store.find(start) for start in ("attached", "waiting", "fresh")]
