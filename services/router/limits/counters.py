"""What a call takes from, as the limiter sees it: one principal's hold on one rule of one subject."""

from __future__ import annotations

from typing import Protocol

from services.router.limits.claims import Rule


class Counter(Protocol):
    """Of a store in memory it is the meter itself, of a shared one the leases that this router has.

    Times are the loop's; a slot is whatever says to which one an amount was charged.
    """

    subject: str
    rule: Rule
    counts_tokens: bool
    counts_calls: bool

    def take(self, amount: int, now: float) -> int:
        """Takes what is at hand, and returns the slot that it is charged to; -1 if there is not as much."""
        ...

    def give_back(self, slot: int, amount: int, now: float) -> None:
        """Gives back what was taken."""
        ...

    def owe(self, amount: int, now: float) -> None:
        """Charges what was used without having been taken."""
        ...

    def room(self, now: float) -> int:
        """What could be taken at most, as far as is known here."""
        ...

    def wait(self, amount: int, now: float) -> float:
        """Seconds until so much may be there; an estimate. 0 if it is."""
        ...

    def reset(self, now: float) -> float:
        """Seconds until all of it is there, if nobody takes more; an estimate."""
        ...

    def let_go(self) -> None:
        """Nobody holds on to this counter any more."""
        ...
