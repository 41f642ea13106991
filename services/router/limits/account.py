"""What the calls of one principal with the same claims take from."""

from __future__ import annotations

from services.router.limits.counters import Counter
from services.router.limits.headers import LimitHeaders


class Account:
    """All counters that a principal's calls with the same claims take from."""

    __slots__ = ("_takes", "claims", "counters", "headers", "most", "open", "principal", "used_at")

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

    def take(self, tokens: int, now: float) -> list[int] | None:
        """Takes what one call needs from all counters, or from none."""
        slots: list[int] = []
        for take, counts_tokens in self._takes:
            slot = take(tokens if counts_tokens else 1, now)
            if slot < 0:
                for taken, slot in zip(self.counters, slots, strict=False):
                    taken.give_back(slot, tokens if taken.counts_tokens else 1, now)
                return None
            slots.append(slot)
        return slots


def _limit(counter: Counter) -> int:
    return counter.rule.limit
