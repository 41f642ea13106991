"""A window in slots lets no interval of its length see more than its limit, and forgets what is older."""

from hypothesis import given
from hypothesis import strategies as st

from services.router.limits.windows import Window


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 40)), max_size=80))
def test_no_interval_sees_more_than_the_limit(steps: list[tuple[float, int]]) -> None:
    window, now, taken = Window(10.0, 10), 1000.0, []
    for pause, amount in steps:
        now += pause
        if window.take(amount, 100, now) >= 0:
            taken.append((now, amount))
        for start, _ in taken:
            assert sum(amount for at, amount in taken if start <= at <= start + 10.0) <= 100


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 40)), max_size=40))
def test_nothing_is_charged_longer_than_a_slot_beyond_the_window(steps: list[tuple[float, int]]) -> None:
    window, now, taken = Window(10.0, 10, ahead=2.0), 1000.0, []
    for pause, amount in steps:
        now += pause
        slot = window.turn(now + 0)
        taken.append((now, window.add(slot + 2, amount)))
        assert window.used <= sum(amount for at, amount in taken if at >= now - 13.0)
    window.turn(now + 13.1)
    assert window.used == 0
    assert list(window.charged()) == []


def test_what_is_given_back_leaves_the_slot_that_it_was_charged_to() -> None:
    window = Window(10.0, 10)
    slot = window.take(60, 100, 1000.0)
    assert window.take(50, 100, 1005.0) == -1
    assert window.add(slot, -50) == -50
    assert window.take(50, 100, 1005.0) == slot + 5
    window.turn(1011.5)
    assert window.add(slot, -10) == 0, "it has left already"
    assert window.used == 50


def test_no_more_is_given_back_than_was_charged() -> None:
    window = Window(10.0, 10)
    slot = window.take(5, 100, 1000.0)
    assert window.add(slot, -8) == -5
    assert window.used == 0


def test_the_wait_is_exact() -> None:
    window = Window(10.0, 10)
    window.take(60, 100, 1000.2)
    window.take(40, 100, 1003.2)
    wait = window.wait(61, 1004.0)
    assert window.take(61, 100, 1004.0 + wait - 0.01) == -1
    assert window.take(61, 100, 1004.0 + wait + 0.01) >= 0


def test_a_clock_that_goes_back_forgets_nothing() -> None:
    window = Window(10.0, 10)
    window.take(100, 100, 1000.0)
    assert window.take(1, 100, 990.0) == -1
