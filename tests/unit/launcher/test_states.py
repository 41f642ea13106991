"""What those who wait are told, and how they hear of changes."""

import asyncio
from datetime import datetime

import msgspec
import pytest

from services.launcher.board import Board, News
from services.launcher.policy import Backoff, Policy
from services.launcher.starts import Start, StartState
from services.launcher.states import EndpointState, describe, ordinal

NOW = 1000.0
ENDPOINT = "clusters/sophia/endpoints/e"
FRESH = Start("a", ENDPOINT, 0, created_at=900.0)


def told(*live: Start, policy: Policy | None = None, resting: Backoff | None = None) -> EndpointState:
    return describe(ENDPOINT, policy or Policy(), live, resting or Backoff(), NOW, tasks=False)


def test_a_place_in_the_queue_and_the_expected_start_are_told() -> None:
    at = datetime(2026, 11, 21, 14, 5).timestamp()
    start = msgspec.structs.replace(
        FRESH, state=StartState.QUEUED, queue_position=3, expected_start=at, detail="in the queue"
    )
    state = describe(ENDPOINT, Policy(), [start], Backoff(), at - 90, tasks=True)
    assert state.detail == "its job is third in the queue of 'clusters/sophia', expected to start at 14:05"
    assert (state.retry_after, state.state, state.tasks) == (90, StartState.QUEUED, True)
    assert describe(ENDPOINT, Policy(), [start], Backoff(), at - 81, tasks=True) == state, "a second more is no news"
    without = msgspec.structs.replace(start, queue_position=0)
    assert told(without).detail == "in the queue"


def test_the_farthest_start_speaks_and_one_that_leaves_only_for_want_of_another() -> None:
    leaving = msgspec.structs.replace(FRESH, state=StartState.DRAINING, detail="finishes its calls")
    starting = msgspec.structs.replace(FRESH, state=StartState.STARTING, detail="loading")
    assert told(leaving, FRESH, starting).detail == "loading"
    assert told(leaving).state is StartState.DRAINING


def test_a_pause_after_failures_is_told_as_failed_with_its_rest() -> None:
    until = datetime(2026, 11, 21, 14, 5, 30).timestamp()
    resting = Backoff(2, until, "no GPU was found.")
    state = describe(ENDPOINT, Policy(), [], resting, until - 119.5, tasks=False)
    assert state == EndpointState(
        ENDPOINT,
        None,
        "the last 2 attempts to start a worker failed: no GPU was found; the next one is at 14:05:30",
        120,
        failed=True,
    )
    assert describe(ENDPOINT, Policy(), [], resting, until - 111, tasks=False) == state, "a second more is no news"
    assert not told(resting=Backoff(2, NOW, "no GPU was found")).failed
    assert not told(FRESH, resting=Backoff(2, NOW + 60, "x")).failed, "one is under way"


def test_where_none_may_be_started_the_reason_is_told() -> None:
    state = told(policy=Policy(closed="the cluster is under maintenance: back on Monday"))
    assert (state.failed, state.detail) == (True, "the cluster is under maintenance: back on Monday")


@pytest.mark.parametrize(
    ("number", "word"),
    [(1, "first"), (10, "tenth"), (11, "11th"), (12, "12th"), (21, "21st"), (102, "102nd"), (113, "113th")],
)
def test_places_in_words(number: int, word: str) -> None:
    assert ordinal(number) == word


def state(name: str, detail: str = "") -> EndpointState:
    return EndpointState(name, None, detail)


async def test_a_watcher_hears_all_then_what_changes() -> None:
    board = Board()
    board.publish({"a": state("a"), "b": state("b")})
    watch = board.watch()
    assert await anext(watch) == News((state("a"), state("b")))
    board.publish({"a": state("a"), "b": state("b", "new")})
    board.publish({"b": state("b", "newer"), "c": state("c")})
    assert await anext(watch) == News((state("b", "newer"), state("c")), ("a",)), "each of them once"
    await watch.aclose()


async def test_silence_is_broken_by_signs_of_life() -> None:
    board = Board(heartbeat=0.001)
    watch = board.watch()
    assert await anext(watch) == News(), "nothing is known yet"
    board.publish({})
    assert await anext(watch) == News()
    await watch.aclose()


async def test_a_board_that_closes_ends_its_watches() -> None:
    board = Board()
    board.publish({"a": state("a")})

    async def watch() -> list[News]:
        return [news async for news in board.watch()]

    watching = asyncio.ensure_future(watch())
    await asyncio.sleep(0)
    board.close()
    heard = await watching
    assert heard[0] == News((state("a"),))
