"""What the calls of one principal with the same claims take from."""

from __future__ import annotations

from services.router.limits.counters import Counter
from services.router.limits.headers import LimitHeaders


class Account:
    """All counters that a principal's calls with the same claims take from."""

    __slots__ = (
        "_of_calls",
        "_of_tokens",
        "_takes",
        "claims",
        "counters",
        "headers",
        "most",
        "open",
        "principal",
        "used_at",
    )

    def __init__(self, claims: object, principal: str, counters: tuple[Counter, ...]) -> None:
        self.claims = claims
        self.principal = principal
        self.counters = counters
        self.most = min((counter for counter in counters if counter.counts_tokens), key=_limit, default=None)
        """That which allows the fewest tokens."""
        self.headers = LimitHeaders(counters)
        self.open = 0
        """Calls that are admitted and not yet settled."""
        self.used_at = 0.0
        self._takes = tuple((counter.take, counter.counts_tokens) for counter in counters)
        self._of_tokens = tuple((at, counter) for at, counter in enumerate(counters) if counter.counts_tokens)
        self._of_calls = tuple((at, counter) for at, counter in enumerate(counters) if counter.counts_calls)

    def take(self, tokens: int, now: float) -> list[int] | None:
        """Takes what one call needs from all counters, or from none."""
        slots: list[int] = []
        for take, counts_tokens in self._takes:
            slot = take(tokens if counts_tokens else 1, now)
            if slot < 0:
                self._untake(slots, tokens, now)
                return None
            slots.append(slot)
        return slots

    def _untake(self, slots: list[int], tokens: int, now: float) -> None:
        for counter, slot in zip(self.counters, slots, strict=False):
            counter.give_back(slot, tokens if counter.counts_tokens else 1, now)

    def settle(self, slots: list[int], left: int, now: float) -> None:
        """A call has ended that took from these slots, with so many tokens left, or owed if that is negative."""
        if left > 0:
            for at, counter in self._of_tokens:
                counter.give_back(slots[at], left, now)
        elif left < 0:
            for _, counter in self._of_tokens:
                counter.owe(-left, now)
        for at, counter in self._of_calls:
            counter.give_back(slots[at], 1, now)


def _limit(counter: Counter) -> int:
    return counter.rule.limit
