"""The engine: slots, queue and the passing of time. It knows neither HTTP nor words."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from services.sim.cache import PrefixCache
from services.sim.config import SimConfig
from services.sim.words import count_tokens

#: Tokens that a stream without pacing takes in one turn of the loop, so that it does not starve the others.
_BURST = 64


class QueueFullError(Exception):
    """As many calls wait as may."""


class Clock(Protocol):
    """The part of an event loop that the engine needs."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[Sequence], None], sequence: Sequence, /) -> asyncio.Handle: ...


@dataclass(slots=True, eq=False)
class Sequence:
    """One call inside the engine: its prompt, how many tokens it shall have, and how many it has by now."""

    prompt: bytes
    #: Tokens of each choice; 0 for a call that only reads its prompt.
    tokens: int
    #: Called when `generated` has grown: token by token if `streamed`, else once, at the end.
    on_progress: Callable[[], None]
    choices: int = 1
    streamed: bool = False
    #: Past this count nothing is generated, and the sequence stays until it is cancelled.
    stall_at: int | None = None
    generated: int = 0
    cached_tokens: int = 0
    first_at: float = 0.0
    timer: asyncio.Handle | None = None

    @property
    def finished(self) -> bool:
        return self.generated == self.tokens


class Engine:
    """Runs up to `max_num_seqs` sequences at once; the others wait in order of arrival."""

    def __init__(self, config: SimConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._running: set[Sequence] = set()
        self._waiting: OrderedDict[Sequence, None] = OrderedDict()
        self._ended_tokens = 0
        self.cache = PrefixCache(config.prefix_cache_blocks)
        self.prompt_tokens = 0

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def generated_tokens(self) -> int:
        """All tokens generated since the start, those of running sequences included."""
        return self._ended_tokens + sum(map(self._generated, self._running))

    @property
    def kv_cache_usage(self) -> float:
        """The share of the memory for tokens that running sequences hold, from 0 to 1."""
        held = sum(count_tokens(sequence.prompt) + self._generated(sequence) for sequence in self._running)
        return min(1.0, held / (self._config.max_num_seqs * self._config.max_model_len))

    def submit(self, sequence: Sequence) -> None:
        """Starts the sequence or lets it wait. Raises QueueFullError if too many wait already."""
        if len(self._running) < self._config.max_num_seqs:
            self._start(sequence)
            return
        limit = self._config.max_num_queued_reqs
        if limit is not None and len(self._waiting) >= limit:
            raise QueueFullError
        self._waiting[sequence] = None

    def cancel(self, sequence: Sequence) -> None:
        """Stops the sequence wherever it is; nothing happens if it has ended."""
        if sequence in self._waiting:
            del self._waiting[sequence]
        elif sequence in self._running:
            self._end(sequence)

    def _start(self, sequence: Sequence) -> None:
        self._running.add(sequence)
        prompt_tokens = count_tokens(sequence.prompt)
        self.prompt_tokens += prompt_tokens
        sequence.cached_tokens = self.cache.admit(sequence.prompt)
        computed = 1 - sequence.cached_tokens / prompt_tokens if prompt_tokens else 1
        sequence.first_at = self._clock.time() + self._config.ttft_s * computed
        self._arm(sequence)

    def _arm(self, sequence: Sequence) -> None:
        """Sets the timer for the next token, or for the last one if nobody looks at those before it.

        The deadlines are absolute: a late turn of the loop delays one token and not all that follow.
        """
        goal = min(sequence.generated + 1, sequence.tokens) if sequence.streamed else sequence.tokens
        if sequence.stall_at is not None and goal > sequence.stall_at:
            return
        due_at = sequence.first_at + max(goal - 1, 0) * self._config.inter_token_s
        sequence.timer = self._clock.call_at(due_at, self._advance, sequence)

    def _advance(self, sequence: Sequence) -> None:
        if sequence.streamed:
            # The loop's timers count whole milliseconds and may come early: at least one token is due.
            due = max(self._due(sequence), sequence.generated + 1)
            sequence.generated = min(due, sequence.generated + _BURST, _limit(sequence))
        else:
            sequence.generated = sequence.tokens
        if sequence.finished:
            self._end(sequence)
        else:
            self._arm(sequence)
        sequence.on_progress()

    def _end(self, sequence: Sequence) -> None:
        self._ended_tokens += self._generated(sequence)
        self._running.discard(sequence)
        if sequence.timer:
            sequence.timer.cancel()
        if self._waiting:
            self._start(self._waiting.popitem(last=False)[0])

    def _generated(self, sequence: Sequence) -> int:
        """Tokens of all choices so far; of a call that is not streamed, those that its time accounts for."""
        own = sequence.generated if sequence.streamed or sequence.finished else self._due(sequence)
        return own * sequence.choices

    def _due(self, sequence: Sequence) -> int:
        """How many tokens of each choice the sequence should have by now."""
        elapsed = self._clock.time() - sequence.first_at
        if elapsed < 0:
            return 0
        pace = self._config.inter_token_s
        return min(int(elapsed / pace) + 1, _limit(sequence)) if pace else _limit(sequence)


def _limit(sequence: Sequence) -> int:
    return sequence.tokens if sequence.stall_at is None else min(sequence.tokens, sequence.stall_at)
