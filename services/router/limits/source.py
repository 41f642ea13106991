"""Where counters come from: the router's own memory, or a store that several routers share."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from services.router.limits.account import Account
from services.router.limits.claims import Claim
from services.router.limits.counters import Counter
from services.router.limits.memory import Books
from services.router.limits.metrics import STORE_UP
from services.router.limits.refusals import Shortage


class Fetched(NamedTuple):
    """What became of a call that asked the store: the slots that it is charged to, or what was lacking."""

    slots: list[int]
    shortages: list[Shortage]


class Source(Protocol):
    """Gives counters, and gets for them what is not at hand."""

    @property
    def final(self) -> bool:
        """Whether what is not at hand is nowhere."""
        ...

    def __len__(self) -> int:
        """Rules that are counted."""
        ...

    def counters(self, claims: tuple[Claim, ...], principal: str) -> tuple[Counter, ...]:
        """What a call with these claims takes from."""
        ...

    async def fetch(self, account: Account, tokens: int) -> Fetched:
        """Takes what one call needs from all counters, or from none. Raises LIMITS_UNAVAILABLE."""
        ...

    def sweep(self, now: float) -> None:
        """Forgets what is used no more."""
        ...

    def start(self) -> None:
        """Begins what runs in the background."""
        ...

    async def close(self) -> None:
        """Ends it, and gives back what others could use."""
        ...


class OwnSource(Books):
    """The router's own memory."""

    final = True

    async def fetch(self, account: Account, tokens: int) -> Fetched:
        """See `Source.fetch`."""
        raise NotImplementedError("what a router counts by itself is at hand, or nowhere")

    def start(self) -> None:
        """See `Source.start`."""
        STORE_UP.set(1)

    async def close(self) -> None:
        """See `Source.close`."""
