"""What a store that routers share promises: the one in memory, and Redis's, which must agree to the token."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.core.errors import ServiceError
from services.core.quota import Quota
from services.router.limits.claims import Claim
from services.router.limits.exchange import Answer, Exchange, Hold, Lack, QuotaStore, StoreAwayError
from services.router.limits.limiter import Admission, Limiter
from services.router.limits.memory_store import MemoryStore
from services.router.limits.redis_store import RedisStore
from services.router.limits.shared import SharedSource
from tests.testing.parts import requires_part
from tests.testing.redis import RedisServer

MINUTE = ("minute/60", 60.0, 60)
DAY = ("day/86400", 86400.0, 60)
CALLS = ("calls/10", 10.0, 0)

SOON = 30.0
"""Seconds that the store has to answer: it is not away where this process, or it, stands still for a while."""

_numbers = itertools.count(1)


@pytest.fixture(params=["memory", pytest.param("redis", marks=requires_part("redis"))])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[QuotaStore]:
    if request.param == "memory":
        yield MemoryStore(time.time, quiet=0)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    redis = RedisStore(server.url, quiet=0, timeout=SOON)
    yield redis
    await redis.close()


def hold(rule: tuple[str, float, int] = DAY, principal: str = "", **fields: Any) -> Hold:
    given: dict[str, Any] = {"limit": 1000, "held": 0, "want": 0, "life": 2.0, "changes": [], **fields}
    return Hold(f"groups/g {rule[0]}", principal, given.pop("limit"), rule[1], rule[2], **given)


def ask(
    *holds: Hold, calls: list[list[tuple[int, int]]] | None = None, router: str = "r1", epoch: str = ""
) -> Exchange:
    return Exchange(router, next(_numbers), epoch, list(holds), calls or [])


def granted(answer: Answer) -> list[bool]:
    return [not any(isinstance(one, Lack) for one in found) for found in answer.calls]


async def test_grants_until_the_limit(store: QuotaStore) -> None:
    answer = await store.exchange(ask(hold(), calls=[[(0, 400)], [(0, 400)], [(0, 400)], [(0, 200)]]))
    assert granted(answer) == [True, True, False, True]
    [lack] = answer.calls[2]
    assert isinstance(lack, Lack)
    assert (lack.hold, lack.room) == (0, 200)
    assert 86400 * 60 / 61 < lack.wait <= 86400 * 61 / 60
    assert answer.grants[0][:2] == (1000, 0)
    assert answer.known
    assert answer.routers == 1


async def test_all_of_a_call_or_nothing(store: QuotaStore) -> None:
    holds = hold(), hold(CALLS, limit=1)
    answer = await store.exchange(ask(*holds, calls=[[(0, 10), (1, 1)], [(0, 10), (1, 1)]]))
    assert granted(answer) == [True, False]
    assert [grant.used for grant in answer.grants] == [10, 1]


async def test_what_is_given_back_is_there_again_and_no_more(store: QuotaStore) -> None:
    answer = await store.exchange(ask(hold(), calls=[[(0, 400)]]))
    [[slot]] = answer.calls
    assert isinstance(slot, int)
    answer = await store.exchange(ask(hold(changes=[(slot, -300)])))
    assert answer.grants[0].used == 100
    answer = await store.exchange(ask(hold(changes=[(slot, -300), (slot - 100, -50), (slot, 1)])))
    assert answer.grants[0].used == 1
    answer = await store.exchange(ask(hold(changes=[(slot - 100, 50), (slot, 5000)])))
    assert answer.grants[0][:2] == (5001, 0), "what was used is charged, whatever the limit"


async def test_a_lease_is_a_small_part_and_charged_to_its_end(store: QuotaStore) -> None:
    answer = await store.exchange(ask(hold(MINUTE, want=900)))
    [grant] = answer.grants
    assert (grant.used, grant.leased, grant.room) == (50, 50, 950)
    assert grant.slot == int(answer.now + 2.0)
    answer = await store.exchange(ask(hold(MINUTE, want=900), calls=[[(0, 800)]]))
    assert answer.grants[0].leased == 37, "a quarter of what is left"


async def test_open_calls_end_with_their_router(store: QuotaStore) -> None:
    answer = await store.exchange(ask(hold(CALLS, limit=3), calls=[[(0, 1)], [(0, 1)]], router="r1"))
    assert granted(answer) == [True, True]
    answer = await store.exchange(ask(hold(CALLS, limit=3), calls=[[(0, 1)], [(0, 1)]], router="r2"))
    assert granted(answer) == [True, False]
    assert answer.routers == 2
    leaving = Exchange("r1", next(_numbers), "", [], [], leaving=True)
    await store.exchange(leaving)
    answer = await store.exchange(ask(hold(CALLS, limit=3, held=1), calls=[[(0, 1)]] * 3, router="r2"))
    assert granted(answer) == [True, True, False]
    assert answer.routers == 1


async def test_a_question_that_comes_late_is_passed_over(store: QuotaStore) -> None:
    late = ask(hold(), calls=[[(0, 400)]])
    await store.exchange(ask(hold()))
    answer = await store.exchange(late)
    assert not answer.known
    assert (await store.exchange(ask(hold()))).grants[0].used == 0


async def test_a_router_that_knows_another_store_is_told_so(store: QuotaStore) -> None:
    answer = await store.exchange(ask(hold(), calls=[[(0, 400)]], epoch="another"))
    assert not answer.known
    answer = await store.exchange(ask(hold(), epoch=answer.epoch))
    assert answer.known
    assert answer.grants[0].used == 0, "nothing of it was done"


async def test_several_are_fair(store: QuotaStore) -> None:
    greedy, modest = hold(principal="users/a b"), hold(principal="users/m")
    answer = await store.exchange(ask(greedy, calls=[[(0, 900)]]))
    answer = await store.exchange(ask(greedy, modest, calls=[[(1, 60)], [(0, 10)], [(1, 40)]]))
    assert granted(answer) == [True, False, True]


USES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 450), st.integers(-200, 200)),
    min_size=1,
    max_size=12,
)


@requires_part("redis")
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(USES)
def test_the_script_agrees_with_the_store_in_memory(redis_server: RedisServer, uses: list[tuple[int, ...]]) -> None:
    async def exercise() -> None:
        name = f"x{next(_numbers)}"
        now = 0.0
        memory = MemoryStore(lambda: now, quiet=0)
        redis = RedisStore(redis_server.url, quiet=0, prefix=f"{name}:", timeout=SOON)
        slot = int(time.time() / 1440)
        for principal, which, amount, change in uses:
            rule = (DAY, CALLS)[which]
            needs = [(0, amount if which == 0 else amount % 3)]
            changes = [(slot, change)] if which == 0 else []
            this = hold(rule, f"users/{principal}", limit=1000 if which == 0 else 7, changes=changes, want=20)
            question = ask(this, hold(rule, "users/2", limit=1000 if which == 0 else 7), calls=[needs, needs])
            there = await redis.exchange(question)
            now = there.now  # else a slot might end between the two looks at a clock
            here = memory.answer(question)
            assert here[5:] == _without_waits(there, here)
            assert here.routers == there.routers
        await redis.close()

    asyncio.run(exercise())


def _without_waits(answer: Answer, like: Answer) -> tuple[Any, ...]:
    """What the other said, but for fractions of a second between the two clocks."""
    calls = [
        [
            Lack(one.hold, one.room, other.wait) if isinstance(one, Lack) and isinstance(other, Lack) else one
            for one, other in zip(found, others, strict=True)
        ]
        for found, others in zip(answer.calls, like.calls, strict=True)
    ]
    return calls, answer.grants


@requires_part("redis")
async def test_every_key_expires(redis_server: RedisServer) -> None:
    store = RedisStore(redis_server.url, quiet=0, timeout=SOON)
    holds = hold(MINUTE, "users/a", want=10), hold(DAY), hold(CALLS, "users/b")
    await store.exchange(ask(*holds, calls=[[(0, 1), (1, 1), (2, 1)]]))
    lines = redis_server.command("KEYS", "*").split("\r\n")
    keys = [line for line in lines[1:] if line and not line.startswith("$")]
    assert len(keys) > 5
    for key in keys:
        assert key.startswith("weft:limits:")
        assert int(redis_server.command("TTL", key)[1:]) > 0, key
    await store.close()


@requires_part("redis")
async def test_a_server_that_is_restarted_is_another(redis_server: RedisServer) -> None:
    store = RedisStore(redis_server.url, quiet=SOON, timeout=SOON)
    before = await store.exchange(ask(hold()))
    redis_server.kill()
    with pytest.raises(StoreAwayError):
        await store.exchange(ask(hold(), epoch=before.epoch))
    redis_server.start()
    after = await store.exchange(ask(hold(), epoch=before.epoch, calls=[[(0, 1)]]))
    assert not after.known
    assert after.quiet > 0
    told = await store.exchange(ask(hold(changes=[(int(after.now / 1440), 700)]), epoch=after.epoch, calls=[[(0, 1)]]))
    assert told.known
    assert told.calls == []
    assert told.grants[0].used == 700
    redis_server.command("FLUSHALL")
    assert not (await store.exchange(ask(hold(), epoch=after.epoch))).known
    await store.close()


@requires_part("redis")
async def test_a_server_that_hangs_is_away(redis_server: RedisServer) -> None:
    store = RedisStore(redis_server.url, quiet=0, timeout=3)
    await store.exchange(ask(hold()))
    redis_server.freeze(frozen=True)
    with pytest.raises(StoreAwayError):
        await store.exchange(ask(hold(), calls=[[(0, 10)]]))
    redis_server.freeze(frozen=False)
    assert (await store.exchange(ask(hold()))).known
    await store.close()


@requires_part("redis")
async def test_a_wrong_password_is_a_store_that_is_away_and_is_not_shown(redis_server: RedisServer) -> None:
    redis_server.command("CONFIG", "SET", "requirepass", "right-secret")
    store = RedisStore(redis_server.url, "wrong-secret", quiet=0, timeout=SOON)
    with pytest.raises(StoreAwayError) as caught:
        await store.exchange(ask(hold()))
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(store.__dict__)
    await store.close()
    store = RedisStore(redis_server.url, "right-secret", quiet=0, timeout=SOON)
    assert (await store.exchange(ask(hold()))).known
    await store.close()


@requires_part("redis")
async def test_two_hundred_callers_at_two_routers(redis_server: RedisServer) -> None:
    loop = asyncio.get_running_loop()
    sources = [
        SharedSource(
            RedisStore(redis_server.url, quiet=0, timeout=SOON), name, loop.time, offset=time.time() - loop.time()
        )
        for name in ("a", "b")
    ]
    limiters = [Limiter(source, loop.time) for source in sources]
    for limiter in limiters:
        limiter.start()
    claims = (Claim("users/alice", Quota(tokens_per_minute=1000)),)

    async def call(limiter: Limiter) -> int:
        try:
            admission = limiter.admit(claims, principal="users/alice", tokens=30)
            admission = admission or await limiter.admit_later(claims, principal="users/alice", tokens=30)
        except ServiceError:
            return 0
        assert isinstance(admission, Admission)
        admission.settle(30)
        return 30

    used = await asyncio.gather(*(call(limiters[i % 2]) for i in range(200)))
    assert sum(used) == 990
    assert all(source.desk.questions < 10 for source in sources), "callers share their way to the store"
    for limiter in limiters:
        await limiter.close()
