"""What routers and the store that they share say to each other."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

import msgspec

HEARTBEAT: Final = 1.0
"""Seconds between two exchanges of a router that has nothing else to say."""
QUIET: Final = 3.0
"""Seconds for which a store that has just begun empty grants nothing: routers tell it what they were charged."""
ROUTER_LIFE: Final = 10.0
"""Seconds without an exchange after which a router's open calls are taken for ended."""
LEASE_LIFE: Final = 2.0
"""A lease ends after so long, or after a quarter of a shorter window."""
LEASE_PART: Final = 20
"""A lease is at most this part of the limit, and a quarter of what is left."""


class Hold(msgspec.Struct, frozen=True):
    """One principal's hold on one rule of one subject, by one router."""

    key: str
    principal: str
    """Empty if nobody else takes from it."""
    limit: int
    window: float
    slots: int
    """0: it counts open calls."""
    held: int
    """Of open calls: how many places the router has, as it asks; for more it asks by `calls` and `want`."""
    want: int
    """How much it would like to have as a lease."""
    life: float
    """How long that lease is to live, in seconds."""
    changes: list[tuple[int, int]]
    """What is charged to slots, whatever the limit, or (negative) given back."""


class Exchange(msgspec.Struct, frozen=True):
    """What a router asks at once. `calls` are lists of holds, by their places, and how much each call needs of them."""

    router: str
    number: int
    """Higher than any before: one that arrives late, after its router has given up on it, is passed over."""
    epoch: str
    """Which store the router knows; empty at first."""
    holds: list[Hold]
    calls: list[list[tuple[int, int]]]
    leaving: bool = False
    """The router ends."""


class Grant(NamedTuple):
    """How a hold stands: what all have used, what the principal may still take; its lease, and the slot of that."""

    used: int
    room: int
    leased: int
    slot: int


class Lack(NamedTuple):
    """What a call did not get: of which hold, by its place; what there was; seconds until there may be enough."""

    hold: int
    room: int
    wait: float


class Answer(NamedTuple):
    """What the store says. `calls` are the slots that a call's needs are charged to, or what it lacks."""

    epoch: str
    now: float
    """The store's clock, in seconds."""
    routers: int
    """How many are known to it."""
    quiet: float
    """Seconds for which it will grant nothing yet."""
    known: bool
    """Whether the router knew this store; nothing was done if not."""
    calls: list[list[int] | list[Lack]]
    grants: list[Grant]


class StoreAwayError(Exception):
    """The store does not answer, or not as it should; the message says how, and holds no secret."""


class QuotaStore(Protocol):
    """Counts for several routers."""

    async def exchange(self, exchange: Exchange) -> Answer:
        """One round trip. Raises `StoreAwayError`; it is unknown then whether anything was done."""
        ...

    async def close(self) -> None:
        """Lets go of the connection."""
        ...


def lease_life(window: float) -> float:
    """How long a lease of quota for such a window lives, in seconds."""
    return min(LEASE_LIFE, window / 4)
