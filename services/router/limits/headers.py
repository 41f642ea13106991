"""What callers are told of their limits: OpenAI's headers (https://platform.openai.com/docs/guides/rate-limits)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from services.core.inference import Headers
from services.router.limits.claims import Kind
from services.router.limits.counters import Counter

_KINDS: Final = (("requests", (Kind.REQUESTS,)), ("tokens", (Kind.MINUTE, Kind.DAY)))


class LimitHeaders:
    """Those of the tightest rule of requests and the tightest of tokens: that of which the least is left."""

    __slots__ = ("_told",)

    def __init__(self, counters: Sequence[Counter]) -> None:
        kinds = ((name, [one for one in counters if one.rule.kind in kinds]) for name, kinds in _KINDS)
        self._told = [
            (found, f"x-ratelimit-limit-{name}", f"x-ratelimit-remaining-{name}", f"x-ratelimit-reset-{name}")
            for name, found in kinds
            if found
        ]

    def at(self, now: float) -> Headers:
        """As the limits stand at a time of the loop's."""
        headers: list[tuple[str, str]] = []
        for counters, limit, remaining, reset in self._told:
            tightest, least = counters[0], counters[0].room(now)
            for counter in counters[1:]:
                room = counter.room(now)
                if room < least:
                    tightest, least = counter, room
            headers.append((limit, str(tightest.rule.limit)))
            headers.append((remaining, str(least)))
            headers.append((reset, duration(tightest.reset(now))))
        return tuple(headers)


def duration(seconds: float) -> str:
    """As OpenAI writes it, rounded up: `12ms`, `1s`, `6m0s`, `23h59m0s`."""
    return _written(math.ceil(seconds * 1000 - 1e-6) if seconds < 1 else math.ceil(seconds - 1e-6) * 1000)


@lru_cache(maxsize=2048)
def _written(milliseconds: int) -> str:
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, seconds = divmod(milliseconds // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{seconds}s"
