"""The cold endpoints: where a worker is started for whom, how many calls want one, and the words for it."""

from __future__ import annotations

from collections import Counter

import pytest

from services.core.globus import GlobusFunction, LaunchPolicy
from services.core.tracing import TraceContext
from services.router.cold import ColdEndpoint, ColdEndpoints, StartState, cause, wants
from services.router.targets import Launchable, Sought

A, B, C = (f"clusters/{name}/endpoints/e" for name in "abc")
M = Sought("m", "", "", "")


def launchable(endpoint: str, workers: int = 0, closed: str = "", **policy: int) -> Launchable:
    return Launchable(endpoint, LaunchPolicy(GlobusFunction("e"), **policy), workers, closed)  # type: ignore[arg-type]


def chosen(cold: ColdEndpoints, *candidates: Launchable) -> str | None:
    choice = cold.choose(candidates)
    return None if choice is None else choice.endpoint


def test_one_endpoint_is_chosen_and_not_each():
    cold = ColdEndpoints()
    both = launchable(A), launchable(B)
    assert chosen(cold, *both) == A
    cold.learn({B: ColdEndpoint(StartState.PENDING)})
    assert chosen(cold, *both) == B, "a start is under way there"
    cold.learn({A: ColdEndpoint(StartState.STARTING)})
    assert chosen(cold, *both) == A, "and is farther here"
    cold.learn({A: ColdEndpoint(StartState.FAILED, failed=True)})
    assert chosen(cold, *both) == B
    cold.learn({B: ColdEndpoint(StartState.FAILED, failed=True)})
    assert chosen(cold, *both) == A
    assert chosen(cold, launchable(A, closed="shut"), launchable(B)) == B
    assert chosen(cold, launchable(A, closed="shut")) is None


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (launchable(A, workers=1), B),
        (launchable(A, workers=1, calls_per_worker=4, max_workers=2), A),
        (launchable(A, workers=2, calls_per_worker=4, max_workers=2), B),
    ],
)
def test_an_endpoint_that_can_have_no_more_workers_comes_after_one_that_can(first, expected):
    assert chosen(ColdEndpoints(), first, launchable(B)) == expected


def test_the_calls_that_wait_want_a_worker_each_once():
    cold = ColdEndpoints()
    other = Sought("n", "", "", "")
    where = {M: (launchable(A), launchable(B)), other: (launchable(A),), Sought("x", "", "", ""): ()}
    counts = {M: 1000, other: 2, Sought("x", "", "", ""): 5}
    assert wants(cold, counts, where.__getitem__) == Counter({A: 1002})


def test_what_changes_is_told_once():
    cold, told = ColdEndpoints(), []
    cold.changed = told.append
    cold.learn({A: ColdEndpoint(StartState.QUEUED), B: ColdEndpoint()})
    cold.learn({A: ColdEndpoint(StartState.QUEUED)})
    cold.learn({B: None, C: None})
    cold.replace({A: ColdEndpoint(StartState.QUEUED)})
    cold.replace({})
    assert told == [{A, B}, {B}, {A}]
    assert cold.get(A) is None


@pytest.mark.parametrize(
    ("known", "word", "detail", "under_way"),
    [
        (None, "waiting", "how far the start of a worker is, is not known at present", False),
        (ColdEndpoint(), "waiting", "a worker has been asked for", True),
        (ColdEndpoint(StartState.PENDING), "pending", "its start has been asked for", True),
        (ColdEndpoint(StartState.QUEUED, "third\r\nin\u2028 line."), "queued", "third in line", True),
        (ColdEndpoint(StartState.STARTING), "starting", "its model server is starting", True),
        (ColdEndpoint(StartState.FAILED, "no such queue", failed=True), "failed", "no such queue", False),
        (ColdEndpoint(StartState.GONE, "its job has ended"), "waiting", "its job has ended", True),
    ],
)
def test_the_words(known, word, detail, under_way):
    cold = ColdEndpoints()
    cold.learn({A: known})
    outlook = cold.outlook([launchable(A)])
    assert (outlook.word, outlook.detail, outlook.under_way) == (word, detail, under_way)
    assert len(outlook.detail) < 400


def test_nothing_is_hoped_for_where_every_start_has_failed_for_longer():
    cold = ColdEndpoints()
    both = [launchable(A), launchable(B), launchable(C, closed="shut")]
    failed = ColdEndpoint(StartState.FAILED, failed=True, retry_after=60)
    cold.learn({A: failed})
    assert not cold.hopeless(both, 30), "of the other nothing is known"
    cold.learn({B: failed})
    assert cold.hopeless(both, 30)
    assert not cold.hopeless(both, 60)


def test_the_call_that_causes_a_start_is_one_that_is_sampled_if_any_is():
    cold = ColdEndpoints()
    first, second, other = (Sought(name, "", "", "") for name in "mno")
    where = {first: (launchable(A),), second: (launchable(A),), other: (launchable(B),)}
    unsampled = TraceContext.of("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=False)
    sampled = TraceContext.of("5bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)

    def caused(waiting: dict[Sought, TraceContext | None]) -> str:
        return cause(cold, waiting, where.__getitem__, A)

    assert caused({}) == caused({first: None, other: sampled}) == ""
    assert caused({first: unsampled, other: sampled}) == unsampled.traceparent
    assert caused({first: unsampled, second: sampled}) == sampled.traceparent
