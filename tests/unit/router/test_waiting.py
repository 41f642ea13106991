"""Who goes next of those that wait: callers in turns, and each caller's calls in the order in which they came."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.core.tracing import TraceContext
from services.router.targets import Sought
from services.router.waiting import WaitingCalls
from tests.testing.waiting import Waiter

MODEL = Sought("m", "", "", "")


class Line:
    """Calls that wait for one server, which takes `room` of them."""

    def __init__(self, room: int) -> None:
        self.waiting = WaitingCalls()
        self.room = room
        self.gone: list[str] = []
        self.woken: list[str] = []
        self.held_back: set[str] = set()

    def add(self, name: str) -> Waiter:
        caller = name[0]
        made: Waiter

        def wake() -> None:
            self.woken.append(name)
            if caller in self.held_back:
                self.waiting.add(made, MODEL)
            else:
                self.gone.append(name)
                self.room -= 1

        made = Waiter(wake, caller=f"users/{caller}")
        self.waiting.add(made, MODEL)
        return made

    def change(self, room: int | None = None) -> list[str]:
        """A place is free; returns who has gone so far."""
        if room is not None:
            self.room = room
        self.waiting.wake_in_order([MODEL], lambda _: self.room > 0)
        return self.gone


def test_a_caller_with_many_calls_holds_up_nobody():
    line = Line(0)
    for number in range(1000):
        line.add(f"a{number}")
    line.add("b0")
    line.add("b1")
    line.add("c0")
    assert line.change(room=6) == ["a0", "b0", "c0", "a1", "b1", "a2"]


def test_turns_go_on_where_they_were():
    line = Line(0)
    for name in ("a0", "a1", "a2", "b0", "b1"):
        line.add(name)
    for _ in range(4):
        line.change(room=1)
    assert line.gone == ["a0", "b0", "a1", "b1"]


def test_who_comes_again_after_its_last_call_went_is_behind_the_others():
    line = Line(0)
    for name in ("a0", "b0", "b1"):
        line.add(name)
    line.change(room=1)
    line.add("a1")
    assert line.change(room=3) == ["a0", "b0", "a1", "b1"]


def test_a_caller_that_is_held_back_by_its_own_limits_holds_up_nobody_else():
    line = Line(0)
    line.held_back = {"a"}
    for name in ("a0", "a1", "b0", "c0"):
        line.add(name)
    assert line.change(room=4) == ["b0", "c0"]
    assert line.woken.count("a0") <= 2
    assert "a1" not in line.woken


def test_many_that_are_held_back_are_not_all_asked_at_each_change():
    line = Line(0)
    line.held_back = {chr(0x100 + number) for number in range(100)}
    for caller in sorted(line.held_back):
        line.add(caller + "0")
    line.change(room=1)
    assert 1 <= len(line.woken) <= 10
    first = list(line.woken)
    line.woken.clear()
    line.change()
    assert set(first).isdisjoint(line.woken), "the next ones have their turn at the next change"


def test_whoever_leaves_leaves_nothing():
    line = Line(0)
    made = [line.add(name) for name in ("a0", "a1", "b0")]
    for waiter in made:
        line.waiting.leave(waiter)
    assert (len(line.waiting), line.waiting.counts, line.waiting.size) == (0, {}, 0)


def turns(names: list[str]) -> list[str]:
    """What is right, by the simplest means: the callers in the order of their first calls, one call of each in turn."""
    lanes: dict[str, list[str]] = {}
    for name in names:
        lanes.setdefault(name[0], []).append(name)
    gone = []
    while lanes:
        for caller in list(lanes):
            gone.append(lanes[caller].pop(0))
            if not lanes[caller]:
                del lanes[caller]
    return gone


@given(st.lists(st.sampled_from("abcd"), max_size=30), st.data())
def test_callers_take_turns(callers, data):
    names = [f"{caller}{number}" for number, caller in enumerate(callers)]
    line = Line(0)
    made = {name: line.add(name) for name in names}
    left = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    staying = [name for name in names if name not in left]
    # A caller keeps its place by any of its calls; one whose calls have all left has none.
    order = list(dict.fromkeys(name[0] for name in names if any(stays[0] == name[0] for stays in staying)))
    for name in left:
        line.waiting.leave(made[name])
    staying.sort(key=lambda name: int(name[1:]))
    expected = turns(sorted(staying, key=lambda name: (order.index(name[0]), int(name[1:]))))
    assert line.change(room=len(names)) == expected
    assert len(line.waiting) == 0


def test_of_those_who_wait_one_that_is_sampled_tells_its_span():
    line = Line(0)
    assert line.waiting.traced(MODEL) is None
    line.add("a1")
    assert line.waiting.traced(MODEL) is None
    places = [TraceContext.of(f"{n:032x}", f"{n:016x}", sampled=n == 2) for n in (1, 2, 3)]
    waiters = [line.add(name) for name in ("a2", "b1", "b2")]
    for waiter, place in zip(waiters, places, strict=True):
        waiter.context = place
    assert line.waiting.traced(MODEL) == places[1]
    line.waiting.leave(waiters[1])
    assert line.waiting.traced(MODEL) in (places[0], places[2])
