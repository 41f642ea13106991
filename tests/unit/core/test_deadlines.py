"""Bounds on time, and the watchdog that keeps one call to them."""

from __future__ import annotations

import pytest

from services.core.deadlines import Bounds, Watchdog
from services.core.errors import Reason, ServiceError
from tests.testing.clock import Clock

BOUNDS = Bounds(first_byte=10, stall=3, total=60)


def watch(bounds: Bounds = BOUNDS) -> tuple[Clock, Watchdog, list[Reason]]:
    clock, expired = Clock(), list[Reason]()

    def expire(error: ServiceError) -> None:
        expired.append(error.reason)

    return clock, Watchdog(clock, bounds, expire), expired


@pytest.mark.parametrize(
    ("total", "first_byte", "expected"),
    [
        (None, None, BOUNDS),
        (5.0, None, Bounds(10, 3, 5)),
        (None, 2.0, Bounds(2, 3, 60)),
        (900.0, 900.0, BOUNDS),
    ],
)
def test_a_caller_may_shorten_the_bounds_and_not_lengthen_them(total, first_byte, expected):
    assert BOUNDS.within(total, first_byte) == expected


@pytest.mark.parametrize("bound", [0.1, 1.0, 10.0, 3600.0])
def test_the_inner_hop_is_the_first_to_report(bound):
    inner = Bounds(bound, bound, bound).inner()
    for shorter in (inner.first_byte, inner.stall, inner.total):
        assert 0.9 * bound <= shorter < bound


def test_no_first_byte():
    clock, _, expired = watch()
    clock.advance(9.9)
    assert expired == []
    clock.advance(0.1)
    assert expired == [Reason.FIRST_BYTE_TIMEOUT]
    clock.advance(1000)
    assert len(expired) == 1
    assert clock.timers == 0


def test_a_stall_is_counted_from_the_last_byte():
    clock, watchdog, expired = watch()
    for _ in range(5):
        clock.advance(2.9)
        watchdog.touch()
    clock.advance(2.9)
    assert expired == []
    clock.advance(0.1)
    assert expired == [Reason.STALL_TIMEOUT]


@pytest.mark.parametrize("first_byte", [0.5, 3, 3.5, 6.5, 9.9])
def test_a_stall_after_a_late_first_byte(first_byte):
    clock, watchdog, expired = watch()
    clock.advance(first_byte)
    watchdog.touch()
    clock.advance(2.9)
    assert expired == []
    clock.advance(0.1)
    assert expired == [Reason.STALL_TIMEOUT]


def test_the_bound_between_bytes_may_be_the_longer_one():
    clock, watchdog, expired = watch(Bounds(first_byte=2, stall=20, total=60))
    clock.advance(1)
    watchdog.touch()
    clock.advance(19.9)
    assert expired == []
    clock.advance(0.1)
    assert expired == [Reason.STALL_TIMEOUT]


def test_the_total_bound_holds_however_busy_the_answer_is():
    clock, watchdog, expired = watch()
    for _ in range(59):
        clock.advance(1)
        watchdog.touch()
    assert watchdog.remaining == 1
    clock.advance(1)
    assert expired == [Reason.TOTAL_TIMEOUT]


def test_while_the_receiver_grants_nothing_only_the_total_bound_holds():
    clock, watchdog, expired = watch()
    watchdog.touch()
    watchdog.pause(True)
    clock.advance(40)
    assert expired == []
    watchdog.pause(False)
    clock.advance(2.9)
    assert expired == []
    clock.advance(0.1)
    assert expired == [Reason.STALL_TIMEOUT]


def test_a_pause_does_not_outlast_the_total_bound():
    clock, watchdog, expired = watch()
    watchdog.touch()
    watchdog.pause(True)
    clock.advance(60)
    assert expired == [Reason.TOTAL_TIMEOUT]


def test_a_closed_watchdog_is_silent():
    clock, watchdog, expired = watch()
    watchdog.close()
    clock.advance(1000)
    assert (expired, clock.timers) == ([], 0)


def test_a_byte_costs_no_timer():
    clock, watchdog, _ = watch()
    watchdog.touch()
    timer = watchdog._timer
    for _ in range(100):
        watchdog.touch()
    assert watchdog._timer is timer
    assert clock.timers == 1
