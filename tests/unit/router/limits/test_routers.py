"""Several routers with one store: whatever happens, no window sees more than its limit, and nothing leaks."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.core.errors import Reason, ServiceError
from services.core.quota import Quota
from services.router.limits.claims import Claim
from services.router.limits.limiter import Admission
from tests.testing.limits import Mesh

LIMIT = 1000
RATE = 30
PLACES = 6


@dataclass(eq=False)
class Charged:
    """What a call has reserved, or in the end used, since it was admitted."""

    at: float
    tokens: int
    admission: Admission | None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.integers(0, 2), st.integers(0, 3), st.integers(1, 400)),
        st.tuples(st.just("burst"), st.integers(0, 2), st.integers(0, 3), st.integers(1, 20)),
        st.tuples(st.just("settle"), st.integers(0, 50), st.integers(0, 100), st.just(0)),
        st.tuples(st.just("pause"), st.floats(0.01, 30.0), st.just(0), st.just(0)),
    ),
    max_size=30,
)


def run(what: Coroutine[Any, Any, None]) -> None:
    asyncio.run(what)


@pytest.mark.parametrize("scale", [1, 10])
@settings(max_examples=50)
@given(steps=STEPS)
def test_no_window_sees_more_than_its_limit_and_nothing_leaks(scale: int, steps: list[tuple[Any, ...]]) -> None:
    run(_exercise(scale, steps))


async def _exercise(scale: int, steps: list[tuple[Any, ...]]) -> None:
    """With limits so many times as large, and as many calls; only large limits are leased."""
    mesh = Mesh(3)
    group = Claim("groups/g", Quota(RATE * scale, PLACES * scale, LIMIT * scale))
    calls: list[Charged] = []

    def check() -> None:
        now = mesh.clock.now
        assert sum(call.tokens for call in calls if call.at > now - 60) <= LIMIT * scale
        assert sum(call.at > now - 1 for call in calls) <= RATE * scale
        assert sum(call.admission is not None for call in calls) <= PLACES * scale

    for step, first, second, third in steps:
        if step == "pause":
            await mesh.advance(first)
        elif step == "settle":
            if still := [call for call in calls if call.admission is not None]:
                _settle(still[first % len(still)], second)
        else:
            for tokens in ([third] if step == "admit" else [2] * third) * scale:
                admission = await mesh.routers[first].admit((group,), f"users/{second}", tokens)
                if isinstance(admission, Admission):
                    calls.append(Charged(mesh.clock.now, tokens, admission))
                    if step == "burst":
                        _settle(calls[-1], 50)
                check()
    for call in calls:
        if call.admission is not None:
            _settle(call, 0)
    await mesh.advance(64)
    whole = await mesh.routers[1].admit((group,), "users/3", LIMIT * scale)
    assert isinstance(whole, Admission), whole
    whole.settle(0)
    await mesh.beat()
    for _ in range(PLACES * scale):
        assert isinstance(await mesh.routers[2].admit((group,), "users/3", 1), Admission)


def _settle(call: Charged, percent: int) -> None:
    assert call.admission is not None
    call.tokens = call.tokens * percent // 100
    call.admission.settle(call.tokens)
    call.admission = None


async def test_leases_keep_the_path_local_and_end_by_themselves() -> None:
    mesh = Mesh(2)
    claims = (Claim("users/alice", Quota(tokens_per_minute=1_000_000)),)
    here, there = mesh.routers
    for _ in range(4):
        assert isinstance(await here.admit(claims, "users/alice", 1000), Admission)
    admission = here.limiter.admit(claims, principal="users/alice", tokens=1000)
    assert admission is not None, "from the lease, at once"
    await mesh.advance(8)
    assert here.limiter.admit(claims, principal="users/alice", tokens=1000) is None, "the lease has ended"
    assert mesh.memory.used("users/alice minute/60", here.source.counters(claims, "users/alice")[0].rule) == 5000
    whole = await there.admit(claims, "users/alice", 995_000)
    assert isinstance(whole, Admission), whole


async def test_what_is_spent_late_of_a_lease_does_not_leave_the_window_early() -> None:
    mesh = Mesh(1)
    claims = (Claim("users/alice", Quota(tokens_per_minute=20_000)),)
    [router] = mesh.routers
    for _ in range(4):
        assert isinstance(await router.admit(claims, "users/alice", 100), Admission)
    mesh.clock.advance(1.9)
    late = sum(router.limiter.admit(claims, principal="users/alice", tokens=50) is not None for _ in range(4))
    assert late > 0, "from the lease, which is about to end"
    await mesh.advance(59.9)
    assert isinstance(await router.admit(claims, "users/alice", 20_000 - 50 * late + 1), ServiceError)


async def test_a_router_that_ends_gives_back_what_it_has() -> None:
    mesh = Mesh(2)
    claims = (Claim("users/alice", Quota(tokens_per_minute=1_000_000, concurrent_calls=100)),)
    here, there = mesh.routers
    for _ in range(4):
        admission = await here.admit(claims, "users/alice", 1000)
        assert isinstance(admission, Admission)
        admission.settle(10)
    await here.limiter.close()
    assert isinstance(await there.admit(claims, "users/alice", 999_960), Admission)
    for _ in range(99):
        found = await there.admit((Claim("users/alice", Quota(concurrent_calls=100)),), "users/alice", 0)
        assert isinstance(found, Admission)


async def test_a_router_that_dies_loses_its_open_calls_in_time() -> None:
    mesh = Mesh(2)
    claims = (Claim("users/alice", Quota(concurrent_calls=2)),)
    here, there = mesh.routers
    for _ in range(2):
        assert isinstance(await here.admit(claims, "users/alice", 0), Admission)
    mesh.routers = [there]
    await mesh.advance(9)
    error = await there.admit(claims, "users/alice", 0)
    assert isinstance(error, ServiceError)
    assert error.reason is Reason.CALLS_EXHAUSTED
    await mesh.advance(2)
    assert isinstance(await there.admit(claims, "users/alice", 0), Admission)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 200)), max_size=30), st.integers(0, 30))
def test_a_store_that_begins_anew_is_told_what_counts(calls: list[tuple[int, int]], breaks: int) -> None:
    async def exercise() -> None:
        mesh = Mesh(2)
        claims = (Claim("groups/g", Quota(tokens_per_minute=LIMIT, concurrent_calls=PLACES)),)
        used = open_calls = 0
        for number, (router, tokens) in enumerate(calls):
            if number == breaks:
                mesh.memory.forget()
                await mesh.beat()  # learns that it is another
                await mesh.beat()  # tells it
            admission = await mesh.routers[router].admit(claims, f"users/{number % 3}", tokens)
            if isinstance(admission, Admission):
                used += tokens
                open_calls += 1
                if number % 2:
                    admission.settle(tokens)
                    open_calls -= 1
                await mesh.beat()
            assert used <= LIMIT
            assert open_calls <= PLACES
        await mesh.advance(63)

    run(exercise())


async def test_nothing_is_granted_before_the_routers_were_heard() -> None:
    mesh = Mesh(2)
    mesh.memory._quiet = 3.0
    claims = (Claim("users/alice", Quota(tokens_per_minute=LIMIT)),)
    assert isinstance(await mesh.routers[0].admit(claims, "users/alice", LIMIT), Admission)
    mesh.memory.forget()
    waiting = asyncio.ensure_future(mesh.routers[1].limiter.admit_later(claims, principal="users/alice", tokens=LIMIT))
    for _ in range(2):
        await asyncio.sleep(0)
        await mesh.routers[1].source.desk.trip()
    assert not waiting.done()
    await mesh.advance(4)
    with pytest.raises(ServiceError) as caught:
        await waiting
    assert caught.value.reason is Reason.TOKENS_EXHAUSTED


@pytest.mark.parametrize("share", [True, False])
async def test_while_the_store_is_away(share: bool) -> None:
    mesh = Mesh(2, share=share)
    claims = (Claim("users/alice", Quota(tokens_per_minute=LIMIT, concurrent_calls=PLACES)),)
    for router in mesh.routers:
        admission = await router.admit(claims, "users/alice", 200)
        assert isinstance(admission, Admission)
        admission.settle(200)
    await mesh.beat()
    mesh.store.away = True
    if not share:
        error = await mesh.routers[0].admit(claims, "users/alice", 1)
        assert isinstance(error, ServiceError)
        assert (error.reason, error.retry_after) == (Reason.LIMITS_UNAVAILABLE, 1.0)
        assert isinstance(await mesh.routers[0].admit((), "users/bob", 1), Admission), "who has no limits never notices"
        return
    taken = 0
    for _ in range(30):
        for router in mesh.routers:
            admission = await router.admit(claims, "users/alice", 50)
            if isinstance(admission, Admission):
                taken += 50
                admission.settle(50)
    # The one that heard of the store first knew of 200, the other of 400: of the rest each has half.
    assert taken == 400 + 300
    await mesh.advance(62)
    again = [await router.admit(claims, "users/alice", 1) for router in mesh.routers for _ in range(PLACES)]
    assert sum(isinstance(one, Admission) for one in again) == PLACES, "half of the places each"
    mesh.store.away = False
    await mesh.advance(3)
    rule = mesh.routers[0].source.counters(claims, "users/alice")[1].rule
    assert mesh.memory.used("users/alice minute/60", rule) == PLACES, "the store was told"


async def test_a_lost_answer_costs_and_never_gives() -> None:
    mesh = Mesh(1)
    claims = (Claim("users/alice", Quota(tokens_per_minute=LIMIT)),)
    [router] = mesh.routers
    admission = await router.admit(claims, "users/alice", 600)
    assert isinstance(admission, Admission)
    admission.settle(100)
    mesh.store.loses = True
    await router.source.desk.trip()  # the store has had back 500, and we do not know
    mesh.store.loses = False
    await mesh.beat()
    await mesh.beat()
    assert isinstance(await router.admit(claims, "users/alice", 900), Admission)
    assert isinstance(await router.admit(claims, "users/alice", 1), ServiceError)


async def test_a_caller_that_leaves_while_the_store_is_asked_takes_nothing() -> None:
    mesh = Mesh(1)
    claims = (Claim("users/alice", Quota(tokens_per_minute=LIMIT, concurrent_calls=1)),)
    [router] = mesh.routers
    for turns in range(4):
        later = asyncio.ensure_future(router.limiter.admit_later(claims, principal="users/alice", tokens=LIMIT))
        await asyncio.sleep(0)
        if turns < 2:
            await router.source.desk.trip()  # the answer is there, the caller has not run yet
        later.cancel()
        with pytest.raises(asyncio.CancelledError):
            await later
        await router.source.desk.trip()
        await router.source.desk.trip()
    assert isinstance(await router.admit(claims, "users/alice", LIMIT), Admission)
