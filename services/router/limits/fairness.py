"""What one of several may take of a quota that they share. Pure; `exchange.lua` reckons likewise."""

from __future__ import annotations

from collections.abc import Iterable


def fair_room(limit: int, used: int, mine: int, unused: int, active: int) -> int:
    """How much one of the `active` principals may take at most, of a quota of which all have used `used`, it itself
    `mine`, and of which the others have `unused` of their fair shares left.

    Everybody who is active has a fair share, the limit divided by their number. One may take what is free beyond the
    unused shares of the others, or what is free up to its own share, whichever is more: so who is alone may take all,
    nobody can be kept from its share by another's greed, but for what that took before anybody else asked, and what is
    taken by nobody's share is not lost. Parts that do not divide evenly are anybody's.
    """
    free = limit - used
    if free <= 0 or active <= 1:
        return max(free, 0)
    own = -(-limit // active) - mine
    return max(min(free, max(free - unused, own)), 0)


def unused_shares(kept: int, uses: Iterable[int]) -> int:
    """What those who have used so much have left of their shares, each of `kept`."""
    return sum(kept - use for use in uses if use < kept)


class UnusedShares:
    """The same sum, kept up to date as one after another takes: to go through a thousand principals at each call would
    cost more than the call. It is reckoned anew when there are more or fewer, or when time has passed.
    """

    __slots__ = ("_kept", "_sum")

    def __init__(self) -> None:
        self._kept = -1
        self._sum = 0

    def forget(self) -> None:
        """Others are active now, or all have changed."""
        self._kept = -1

    def changed(self, before: int, after: int) -> None:
        """One of them has used more, or less."""
        kept = self._kept
        if kept < 0:
            return
        self._sum += max(kept - after, 0) - max(kept - before, 0)

    def of_all(self, kept: int, uses: Iterable[int]) -> int:
        """The sum for shares of `kept`; `uses` are those of all who are active, gone through only if need be."""
        if kept != self._kept:
            self._kept, self._sum = kept, unused_shares(kept, uses)
        return self._sum
