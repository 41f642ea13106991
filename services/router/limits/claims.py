"""What a call takes from: quotas, as rules of which each counts one thing."""

from __future__ import annotations

import enum
from functools import lru_cache
from typing import Final, NamedTuple

from services.core.quota import Quota


class Claim(NamedTuple):
    """One limited thing that a call takes from: `users/alice`, `groups/g`, `routes/llama` (all callers together), or
    `routes/llama users/alice` (this caller's part of it).
    """

    subject: str
    quota: Quota


class Kind(enum.Enum):
    """What a rule counts. Labels of metrics and parts of the store's keys."""

    REQUESTS = "requests"
    CALLS = "calls"
    MINUTE = "minute"
    DAY = "day"


class Rule(NamedTuple):
    """At most `limit` within any `window` seconds, counted in so many slots; of calls, at most so many at once, and
    `window` is how long somebody who asked is reckoned with.
    """

    kind: Kind
    limit: int
    window: float
    slots: int

    @property
    def counts_tokens(self) -> bool:
        """Whether it counts tokens, not calls."""
        return self.kind is Kind.MINUTE or self.kind is Kind.DAY

    @property
    def key(self) -> str:
        """Tells rules of one subject apart. The window is a part: what is counted by another cannot be compared."""
        return f"{self.kind.value}/{self.window:g}"


CALLS_WINDOW: Final = 10.0
"""A caller that was refused comes back within this time, or others have its share of the open calls."""
LONGEST_WINDOW: Final = 86400.0


@lru_cache(maxsize=4096)
def rules_of(quota: Quota) -> tuple[Rule, ...]:
    """The rules that a quota amounts to.

    Part of a call cannot begin: 2.5 calls a second are 2 within any second, and 0.25 are one within any four.
    """
    rules: list[Rule] = []
    if (rate := quota.requests_per_second) >= 1:
        rules.append(Rule(Kind.REQUESTS, int(rate), 1.0, 20))
    elif rate > 0:
        rules.append(Rule(Kind.REQUESTS, 1, min(round(1 / rate, 3), LONGEST_WINDOW), 20))
    if quota.concurrent_calls > 0:
        rules.append(Rule(Kind.CALLS, quota.concurrent_calls, CALLS_WINDOW, 1))
    if quota.tokens_per_minute > 0:
        rules.append(Rule(Kind.MINUTE, quota.tokens_per_minute, 60.0, 60))
    if quota.tokens_per_day > 0:
        rules.append(Rule(Kind.DAY, quota.tokens_per_day, LONGEST_WINDOW, 60))
    return tuple(rules)


def rules_of_claims(claims: tuple[Claim, ...]) -> list[tuple[str, Rule]]:
    """All rules, each with its subject. Where a subject has a rule twice, the stricter one counts, once."""
    found: dict[tuple[str, str], Rule] = {}
    for subject, quota in claims:
        for rule in rules_of(quota):
            key = (subject, rule.key)
            if key not in found or rule.limit < found[key].limit:
                found[key] = rule
    return [(subject, rule) for (subject, _), rule in found.items()]


def is_shared(subject: str, principal: str) -> bool:
    """Whether others than this principal take from what the subject may use."""
    return subject != principal and not subject.endswith(f" {principal}")
