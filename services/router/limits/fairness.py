"""What one of several may take of a quota that they share. Pure; `exchange.lua` reckons likewise."""

from __future__ import annotations

from collections.abc import Iterable


def fair_room(limit: int, used: int, mine: int, others: Iterable[int], active: int) -> int:
    """How much one of the `active` principals may take at most, of a quota of which all have used `used`, it itself
    `mine`, and each of the other active ones as `others` says.

    Everybody who is active has a fair share, the limit divided by their number. One may take what is free beyond the
    unused shares of the others, or what is free up to its own share, whichever is more: so who is alone may take all,
    nobody can be kept from its share by another's greed, but for what that took before anybody else asked, and what is
    taken by nobody's share is not lost. Parts that do not divide evenly are anybody's.
    """
    free = limit - used
    if free <= 0 or active <= 1:
        return max(free, 0)
    kept = limit // active
    beyond = free - sum(kept - other for other in others if other < kept)
    own = -(-limit // active) - mine
    return max(min(free, max(beyond, own)), 0)
