"""What the launcher's store promises, on each database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from services.core.errors import Reason, ServiceError
from services.launcher import migrations
from services.launcher.starts import Start, StartState
from services.launcher.store import LeaseLostError, Store
from services.launcher.tables import HEAD, VERSION_TABLE, metadata
from services.runtime.database import open_database, upgrade
from tests.testing.parts import requires_part

ENDPOINT = "clusters/c/endpoints/e"
LIFE = 10.0


class Clock:
    """Turned by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


OpenStore = Callable[[str], Awaitable[Store]]


def start(identity: str, slot: int = 0, endpoint: str = ENDPOINT, **fields: object) -> Start:
    return msgspec.structs.replace(Start(identity, endpoint, slot, created_at=100.25), **fields)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=requires_part("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/launcher.db"
    postgresql_url: str = request.getfixturevalue("postgresql_url")
    return postgresql_url


@pytest.fixture
async def open_store(url: str, tmp_path: Path, clock: Clock) -> AsyncIterator[OpenStore]:
    """Opens the same database as often as it is called, for holders by their names."""
    stores: list[Store] = []

    async def open_one(holder: str) -> Store:
        engine = open_database(url, tmp_path / "launcher.db", setting="launcher.database")
        store = Store(engine, holder=holder, lease_life=LIFE, clock=clock)
        stores.append(store)
        await store.start()
        return store

    yield open_one
    for store in stores:
        await store.close()


@pytest.fixture
async def one(open_store: OpenStore) -> Store:
    return await open_store("one")


@pytest.fixture
async def two(one: Store, open_store: OpenStore) -> Store:
    return await open_store("two")


async def fence_of(store: Store) -> int:
    fence = await store.hold()
    assert fence is not None
    return fence


# The lease


async def test_one_holds_the_lease_and_keeps_it(one: Store, two: Store, clock: Clock) -> None:
    fence = await fence_of(one)
    assert await two.hold() is None
    for _ in range(3):
        clock.now += LIFE * 0.9
        assert await one.hold() == fence
        assert await two.hold() is None


async def test_a_holder_that_is_silent_is_taken_for_dead_by_the_others_clock(
    one: Store, two: Store, clock: Clock
) -> None:
    fence = await fence_of(one)
    clock.now += 1000
    assert await two.hold() is None, "it has only now looked for the first time"
    clock.now += LIFE
    taken = await fence_of(two)
    assert taken > fence
    assert await one.hold() is None


async def test_a_lease_that_is_given_back_is_free_at_once(one: Store, two: Store) -> None:
    fence = await fence_of(one)
    assert await two.hold() is None
    await two.release()
    assert await two.hold() is None, "only its holder gives it back"
    await one.release()
    assert await fence_of(two) > fence


async def test_of_many_who_want_it_at_once_one_gets_it(open_store: OpenStore) -> None:
    stores = await asyncio.gather(*(open_store(f"holder-{number}") for number in range(4)))
    fences = await asyncio.gather(*(store.hold() for store in stores))
    assert sum(fence is not None for fence in fences) == 1


async def test_a_paused_holder_writes_nothing_after_another_took_over(one: Store, two: Store, clock: Clock) -> None:
    fence = await fence_of(one)
    assert await one.add(start("a"), fence)
    assert await two.hold() is None
    clock.now += LIFE
    taken = await fence_of(two)
    with pytest.raises(LeaseLostError):
        await one.put(start("a", state=StartState.QUEUED), fence)
    with pytest.raises(LeaseLostError):
        await one.add(start("b", 1), fence)
    with pytest.raises(LeaseLostError):
        await one.set_task_mode(ENDPOINT, fence, since=1.0)
    with pytest.raises(LeaseLostError):
        await one.put(start("a", state=StartState.QUEUED), taken)
    assert await two.unsettled() == [start("a")]
    await two.put(start("a", state=StartState.READY), taken)
    assert await one.find("a") == start("a", state=StartState.READY)


@requires_part("postgresql")
async def test_a_holder_that_is_frozen_in_a_transaction_does_not_keep_its_locks(
    postgresql_url: str, tmp_path: Path, clock: Clock
) -> None:
    """On PostgreSQL, where launchers stand by for each other: it ends a transaction in which nothing happens."""
    engines = [open_database(postgresql_url, tmp_path / "none", setting="launcher.database") for _ in range(2)]
    stores = [Store(engine, holder=str(n), lease_life=LIFE, clock=clock) for n, engine in enumerate(engines)]
    for store in stores:
        await store.start()
    assert await stores[0].hold() == 1
    frozen = await engines[0].connect()
    await frozen.execute(sa.text("SELECT * FROM launcher_lease FOR UPDATE"))
    async with asyncio.timeout(60):
        assert await stores[1].hold() is None  # waits for the row; then sees a holder that may be alive
    clock.now += LIFE
    assert await stores[1].hold() == 2
    await frozen.invalidate()
    await frozen.close()
    for store in stores:
        await store.close()


async def test_a_holder_that_comes_back_has_another_fence(one: Store, two: Store, clock: Clock) -> None:
    first = await fence_of(one)
    await two.hold()
    clock.now += LIFE
    await fence_of(two)
    await one.hold()
    clock.now += LIFE
    assert await fence_of(one) > first
    with pytest.raises(LeaseLostError):
        await one.put(start("a"), first)


# Starts


async def test_a_start_comes_back_as_it_was(one: Store, two: Store) -> None:
    whole = start(
        "a", 3, state=StartState.READY, detail="takes calls", job="77", job_end=5.5, ready_at=4.25, tasks=True
    )
    assert await one.add(whole, await fence_of(one))
    assert await two.find("a") == whole
    assert await one.find("b") is None


async def test_a_slot_has_one_live_start(one: Store) -> None:
    fence = await fence_of(one)
    assert await one.add(start("a"), fence)
    assert not await one.add(start("b"), fence)
    assert await one.find("b") is None
    assert await one.add(start("c", slot=1), fence)
    assert await one.add(start("d", endpoint="clusters/c/endpoints/other"), fence)
    await one.put(start("a", state=StartState.GONE, ended_at=5.0), fence)
    assert await one.add(start("b"), fence)


async def test_of_many_who_want_a_slot_one_gets_it(one: Store) -> None:
    fence = await fence_of(one)
    added = await asyncio.gather(*(one.add(start(f"s{number}"), fence) for number in range(10)))
    assert sum(added) == 1


async def test_what_is_over_is_unsettled_until_auth_admits_nobody(one: Store) -> None:
    fence = await fence_of(one)
    await one.add(start("a"), fence)
    over = start("a", state=StartState.FAILED, ended_at=5.0)
    await one.put(over, fence)
    assert await one.unsettled() == [over]
    await one.put(msgspec.structs.replace(over, revoked=True), fence)
    assert await one.unsettled() == []
    assert [ended.id for ended in await one.ended(since=5.0)] == ["a"]
    assert await one.ended(since=5.1) == []


async def test_the_last_that_ended_comes_first(one: Store) -> None:
    fence = await fence_of(one)
    for slot, (identity, ended_at) in enumerate([("a", 7.0), ("b", 9.0), ("c", 8.0)]):
        await one.add(start(identity, slot, state=StartState.GONE, ended_at=ended_at), fence)
    assert [ended.id for ended in await one.ended(since=0)] == ["b", "c", "a"]


async def test_pages_are_newest_first(one: Store) -> None:
    fence = await fence_of(one)
    for slot, (identity, created_at) in enumerate([("a", 1.0), ("b", 2.0), ("c", 2.0), ("d", 3.0)]):
        await one.add(start(identity, slot, created_at=created_at), fence)
    await one.put(start("b", 1, created_at=2.0, state=StartState.GONE, ended_at=4.0), fence)
    await one.add(start("x", endpoint="clusters/c/endpoints/other"), fence)

    async def page(**how: object) -> list[str]:
        return [found.id for found in await one.page(**{"ended": True, "limit": 10, "endpoint": ENDPOINT, **how})]  # type: ignore[arg-type]

    assert await page() == ["d", "c", "b", "a"]
    assert await page(limit=2) == ["d", "c"]
    assert await page(after=(2.0, "c")) == ["b", "a"]
    assert await page(ended=False) == ["d", "c", "a"]
    assert "x" in await page(endpoint="")


async def test_old_starts_are_forgotten_once_nothing_is_left_to_do(one: Store) -> None:
    fence = await fence_of(one)
    await one.add(start("live"), fence)
    for slot, (identity, ended_at, revoked) in enumerate([("old", 5.0, True), ("due", 5.0, False), ("new", 9.0, True)]):
        gone = start(identity, slot + 1, state=StartState.GONE, ended_at=ended_at, revoked=revoked)
        await one.add(gone, fence)
    await one.forget(before=6.0)
    assert {found.id for found in await one.page(ended=True, limit=10)} == {"live", "due", "new"}


async def test_a_wish_to_stop_outlives_what_the_holder_writes(one: Store, two: Store) -> None:
    fence = await fence_of(one)
    await one.add(start("a"), fence)
    assert await two.ask_stop("a", "users/ada asked"), "no lease is needed"
    await one.put(start("a", state=StartState.READY), fence)
    assert await one.asked_to_stop() == {"a": "users/ada asked"}
    await one.put(start("a", state=StartState.GONE, ended_at=5.0), fence)
    assert await one.asked_to_stop() == {}
    assert not await two.ask_stop("b", "why")


# Wants and task mode


async def test_wants_of_all_routers_count_together_until_they_are_old(one: Store, two: Store) -> None:
    await one.say_want(ENDPOINT, "r1", 3, now=10.0)
    await two.say_want(ENDPOINT, "r2", 4, now=12.0)
    await one.say_want("clusters/c/endpoints/other", "r1", 0, now=12.0)
    assert await two.waiting(since=9.0) == {ENDPOINT: 7}
    await one.say_want(ENDPOINT, "r1", 1, now=13.0)
    assert await one.waiting(since=9.0) == {ENDPOINT: 5}
    assert await one.waiting(since=12.5) == {ENDPOINT: 1}
    await one.forget_wants(before=12.5)
    assert await one.waiting(since=0.0) == {ENDPOINT: 1}


async def test_task_mode_is_kept_until_it_is_ended(one: Store, two: Store) -> None:
    fence = await fence_of(one)
    for since in (1.0, 2.0):
        await one.set_task_mode(ENDPOINT, fence, since=since)
    assert await two.in_task_mode() == {ENDPOINT}
    await one.set_task_mode(ENDPOINT, fence, since=None)
    assert await two.in_task_mode() == frozenset()


# The traces of calls that wait


def traceparent(number: int, *, sampled: bool) -> str:
    return f"00-{number:032x}-{number:016x}-{'01' if sampled else '00'}"


async def test_a_start_is_for_a_call_that_is_sampled_if_any_is(one: Store, two: Store) -> None:
    assert await one.cause(ENDPOINT, since=0.0) == ""
    await one.say_want(ENDPOINT, "r1", 3, now=10.0)
    assert await two.cause(ENDPOINT, since=0.0) == "", "none of them is traced"
    await one.say_want(ENDPOINT, "r2", 1, 11.0, traceparent(2, sampled=False))
    assert await two.cause(ENDPOINT, since=0.0) == traceparent(2, sampled=False)
    await two.say_want(ENDPOINT, "r3", 1, 12.0, traceparent(3, sampled=True))
    await two.say_want("clusters/c/endpoints/other", "r3", 1, 12.0, traceparent(4, sampled=True))
    assert await one.cause(ENDPOINT, since=0.0) == traceparent(3, sampled=True)
    assert await one.cause(ENDPOINT, since=12.5) == "", "what is not said again does not count"
    await two.say_want(ENDPOINT, "r3", 0, now=13.0)
    assert await one.cause(ENDPOINT, since=0.0) == traceparent(2, sampled=False), "that call waits no longer"


# The schema


async def test_the_migrations_make_what_the_tables_say(one: Store, url: str, tmp_path: Path) -> None:
    engine = open_database(url, tmp_path / "launcher.db", setting="launcher.database")

    def differences(connection: sa.Connection) -> list[object]:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert context.get_current_revision() == HEAD
        return list(compare_metadata(context, metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_wants_of_an_earlier_schema_count_on_and_name_no_trace(
    url: str, tmp_path: Path, open_store: OpenStore
) -> None:
    engine = open_database(url, tmp_path / "launcher.db", setting="launcher.database")
    async with engine.begin() as connection:
        await connection.run_sync(upgrade, Path(migrations.__file__).parent, metadata, head="0001", table=VERSION_TABLE)
        await connection.execute(
            sa.text("INSERT INTO launcher_wants (endpoint, router, waiting, said_at) VALUES (:endpoint, 'r', 2, 5.0)"),
            {"endpoint": ENDPOINT},
        )
    await engine.dispose()
    store = await open_store("one")
    assert await store.waiting(since=0.0) == {ENDPOINT: 2}
    assert await store.cause(ENDPOINT, since=0.0) == ""


async def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    engine = open_database("postgresql://nobody@127.0.0.1:1/x", tmp_path / "x", setting="launcher.database")
    store = Store(engine, holder="h", lease_life=LIFE, clock=Clock())
    with pytest.raises(ServiceError) as caught:
        await store.start()
    assert caught.value.reason is Reason.LAUNCHER_UNAVAILABLE
    await store.close()
