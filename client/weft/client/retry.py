"""When a failed call is made again. Pure, but for the clock that is handed in."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from weft.client.errors import WeftError

NOTHING_BEGUN: Final = frozenset(
    {
        "REQUESTS_EXHAUSTED",
        "TOKENS_EXHAUSTED",
        "CALLS_EXHAUSTED",
        "LIMITS_UNAVAILABLE",
        "OVERLOADED",
        "NO_WORKER",
        "MODEL_STARTING",
        "ROUTER_UNAVAILABLE",
        "REGISTRY_UNAVAILABLE",
        "AUTH_UNAVAILABLE",
        "LAUNCHER_UNAVAILABLE",
    }
)
"""Reasons for which no model has seen the call. After any other, a model may have worked for it, and a second call
would cost its tokens again: it is made only where the mesh says when (`RetryInfo`)."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a call is tried, and how long is waited in between; in seconds.

    A wait is what the mesh asks for, and a random part of one that doubles from `first_wait` to `longest_wait`: callers
    who were refused together are not to come again together.

        Client(retry=Retry(attempts=6))
        Client(retry=None)                 # never
    """

    attempts: int = 4
    """In all, the first included."""
    first_wait: float = 0.25
    longest_wait: float = 8.0
    reasons: frozenset[str] = NOTHING_BEGUN

    def wait(self, error: WeftError, attempt: int, remaining: float, chance: float) -> float | None:
        """Seconds to wait after attempt number `attempt`, which failed so; None means that it was the last. `remaining`
        is the time to the deadline, `chance` is from 0 to 1.
        """
        if attempt >= self.attempts or (error.retry_after is None and error.reason not in self.reasons):
            return None
        own = min(self.longest_wait, self.first_wait * 2.0 ** (attempt - 1)) * (0.5 + chance / 2)
        wait = (error.retry_after or 0.0) + own
        return wait if wait < remaining else None


class Attempts:
    """One call's attempts, up to its deadline."""

    def __init__(
        self,
        retry: Retry | None,
        timeout: float,
        clock: Callable[[], float],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._retry = retry
        self._clock = clock
        self._chance = chance
        self._until = clock() + timeout
        self._made = 0

    @property
    def remaining(self) -> float:
        """Seconds to the deadline, 0 if it has passed."""
        return max(0.0, self._until - self._clock())

    def failed(self, error: WeftError) -> float:
        """Seconds to wait until the next attempt. Raises the error if there is none."""
        self._made += 1
        wait = self._retry.wait(error, self._made, self.remaining, self._chance()) if self._retry else None
        if wait is None:
            raise error
        return wait
