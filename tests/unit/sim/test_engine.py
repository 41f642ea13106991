"""The engine under a clock that the test turns."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

import pytest

from services.sim.config import SimConfig
from services.sim.engine import Engine, QueueFullError, Sequence


class Clock:
    """Time passes only when the test says so; timers fire in the order of their deadlines."""

    def __init__(self, early: float = 0.0) -> None:
        self.now = 100.0
        self._early = early
        self._order = itertools.count()
        self._timers: list[tuple[float, int, asyncio.Handle]] = []
        self._loop = asyncio.new_event_loop()

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[Sequence], None], sequence: Sequence, /) -> asyncio.Handle:
        handle = asyncio.Handle(callback, (sequence,), self._loop)
        heapq.heappush(self._timers, (when - self._early, next(self._order), handle))
        return handle

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end + 1e-9:
            when, _, handle = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            if not handle.cancelled():
                handle._run()
        self.now = end

    def close(self) -> None:
        self._loop.close()


@pytest.fixture
def clock():
    clock = Clock()
    yield clock
    clock.close()


def make(clock: Clock, **settings: object) -> Engine:
    defaults = {"ttft_s": 1.0, "inter_token_s": 0.1, "max_num_seqs": 2}
    return Engine(SimConfig(**{**defaults, **settings}), clock)


def sequence(tokens: int = 5, prompt: bytes = b"hello", **options: object) -> tuple[Sequence, list[int]]:
    progress: list[int] = []
    made = Sequence(prompt, tokens, lambda: progress.append(made.generated), **options)
    return made, progress


def test_a_streamed_sequence_gets_its_tokens_one_by_one_at_their_times(clock):
    engine = make(clock)
    streamed, progress = sequence(tokens=4, streamed=True)
    engine.submit(streamed)
    clock.advance(0.99)
    assert progress == []
    clock.advance(0.01)
    assert progress == [1]
    clock.advance(0.2)
    assert progress == [1, 2, 3]
    assert (engine.running, engine.generated_tokens) == (1, 3)
    clock.advance(0.1)
    assert progress == [1, 2, 3, 4]
    assert (engine.running, engine.generated_tokens) == (0, 4)


def test_a_whole_sequence_reports_once_and_its_tokens_are_counted_meanwhile(clock):
    engine = make(clock)
    whole, progress = sequence(tokens=5, choices=2)
    engine.submit(whole)
    clock.advance(1.25)
    assert (progress, engine.generated_tokens) == ([], 6)
    clock.advance(0.15)
    assert (progress, engine.generated_tokens) == ([5], 10)


def test_a_late_loop_catches_up_in_one_step_and_keeps_the_schedule(clock):
    engine = make(clock)
    streamed, progress = sequence(tokens=10, streamed=True)
    engine.submit(streamed)
    clock.advance(1.0)
    clock.now += 0.35
    clock.advance(0)
    assert progress == [1, 4]
    clock.advance(0.05)
    assert progress == [1, 4, 5]


def test_timers_that_come_early_do_not_speed_the_stream_up():
    clock = Clock(early=0.0005)
    engine = make(clock, inter_token_s=0.001)
    streamed, progress = sequence(tokens=100, streamed=True)
    engine.submit(streamed)
    clock.advance(1.0 + 0.0505)
    clock.close()
    assert len(progress) in (51, 52)


def test_calls_past_the_slots_wait_in_order_and_past_the_queue_are_refused(clock):
    engine = make(clock, max_num_seqs=1, max_num_queued_reqs=2)
    sequences = [sequence(tokens=1) for _ in range(4)]
    for each, _ in sequences[:3]:
        engine.submit(each)
    with pytest.raises(QueueFullError):
        engine.submit(sequences[3][0])
    assert (engine.running, engine.waiting) == (1, 2)
    clock.advance(1.0)
    assert [progress for _, progress in sequences] == [[1], [], [], []]
    engine.cancel(sequences[2][0])
    assert (engine.running, engine.waiting) == (1, 0)
    clock.advance(1.0)
    assert [progress for _, progress in sequences] == [[1], [1], [], []]
    assert engine.running == 0


def test_a_cancelled_sequence_stops_at_once_and_frees_its_slot(clock):
    engine = make(clock, max_num_seqs=1)
    first, progress = sequence(tokens=50, streamed=True)
    second, _ = sequence(tokens=1)
    engine.submit(first)
    engine.submit(second)
    clock.advance(1.1)
    engine.cancel(first)
    assert (engine.running, engine.waiting) == (1, 0)
    engine.cancel(first)
    clock.advance(10)
    assert progress == [1, 2]
    assert (engine.running, engine.generated_tokens) == (0, 3)


def test_a_stalled_sequence_holds_its_slot_until_it_is_cancelled(clock):
    engine = make(clock)
    streamed, progress = sequence(tokens=5, streamed=True, stall_at=2)
    whole, silent = sequence(tokens=5, stall_at=2)
    engine.submit(streamed)
    engine.submit(whole)
    clock.advance(60)
    assert (progress, silent, engine.running, engine.generated_tokens) == ([1, 2], [], 2, 4)
    engine.cancel(streamed)
    engine.cancel(whole)
    assert engine.running == 0


def test_without_pacing_a_long_stream_comes_in_bursts(clock):
    engine = make(clock, ttft_s=0, inter_token_s=0)
    streamed, progress = sequence(tokens=150, streamed=True)
    engine.submit(streamed)
    clock.advance(0)
    assert progress == [64, 128, 150]


def test_a_prompt_that_the_cache_knows_has_a_shorter_ttft(clock):
    engine = make(clock)
    prompt = b"x" * 640
    for expected in (1.0, 0.1):
        whole, progress = sequence(tokens=1, prompt=prompt)
        engine.submit(whole)
        clock.advance(expected - 0.01)
        assert progress == []
        clock.advance(0.01)
        assert progress == [1]
    assert (engine.cache.queried_tokens, engine.cache.hit_tokens, engine.prompt_tokens) == (320, 144, 320)


def test_running_sequences_fill_the_memory_for_tokens(clock):
    engine = make(clock, max_num_seqs=2, max_model_len=100)
    streamed, _ = sequence(tokens=20, prompt=b"x" * 160, streamed=True)
    engine.submit(streamed)
    clock.advance(1.9)
    assert engine.kv_cache_usage == (40 + 10) / 200
    engine.cancel(streamed)
    assert engine.kv_cache_usage == 0
