"""Bounds on time, and the watchdog that keeps one call to them."""

from __future__ import annotations

import math

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


def test_silence_before_the_first_byte_is_noticed_again_and_again():
    clock, heard = Clock(), list[float]()
    watchdog = Watchdog(
        clock, Bounds(10, 3, 60), lambda error: None, quiet=lambda: heard.append(clock.now - 1000), quiet_after=2
    )
    clock.advance(5)
    assert heard == [2, 4]
    watchdog.touch()
    clock.advance(2)
    assert heard == [2, 4]
    watchdog.close()
    assert clock.timers == 0


def test_whoever_notices_silence_may_end_the_call():
    clock, expired = Clock(), list[Reason]()
    watchdog = Watchdog(
        clock, BOUNDS, lambda error: expired.append(error.reason), quiet=lambda: watchdog.close(), quiet_after=2
    )
    clock.advance(100)
    assert (expired, clock.timers) == ([], 0)


def test_silence_can_be_noticed_sooner():
    clock, heard = Clock(), list[float]()
    watchdog = Watchdog(clock, BOUNDS, lambda error: None, quiet=lambda: heard.append(clock.now - 1000), quiet_after=9)
    watchdog.quiet_every(4)
    clock.advance(8.5)
    assert heard == [4, 8]


def test_the_bound_to_the_first_byte_can_wait_until_somebody_is_asked():
    clock, watchdog, expired = watch()
    watchdog.ask_at(math.inf)
    clock.advance(40)
    assert expired == []
    watchdog.ask_at(clock.now)
    assert watchdog.first_byte_remaining == 10
    clock.advance(9.9)
    assert expired == []
    clock.advance(0.1)
    assert expired == [Reason.FIRST_BYTE_TIMEOUT]


def test_the_total_bound_waits_for_nobody():
    clock, watchdog, expired = watch()
    watchdog.ask_at(math.inf)
    clock.advance(60)
    assert expired == [Reason.TOTAL_TIMEOUT]
