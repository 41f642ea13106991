"""Calls that wait for a server: in one queue for each thing that is sought, its callers served in turns, and each
caller's calls in the order in which they came; pure. So whoever has a thousand calls waiting holds up nobody's single
one.

What happens to a server or a model concerns the queues that seek it, and those calls at their heads that can go. Work
grows with the number of queues, and not with that of the calls.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from services.core.tracing import TraceContext
from services.router.targets import Sought

_LOOKED_AT: Final = 100
"""Calls of one queue that are looked at for one that is traced."""

_SLACK: Final = 64
"""Turns of calls that have left, beside those that wait, before a queue is cleaned."""


_HELD: Final = 8
"""Callers of one queue that may be found to be held back by their own limits, at one change, before it waits for the
next.
"""


class Waiter(Protocol):
    """A call that waits. `turn` is its place among all, 0 before it has waited: one that waits again keeps it. `caller`
    is the principal whose call it is.
    """

    turn: int
    caller: str

    @property
    def size(self) -> int:
        """The size of its body, in bytes."""

    @property
    def context(self) -> TraceContext | None:
        """The place of its span, if it is traced."""

    def next_attempt(self) -> None:
        """Something may serve it now. It waits no longer, unless it says so again."""

    def state_changed(self) -> None:
        """What it waits for is in another state; it goes on waiting."""


class _Lane:
    """One caller's calls, by turn. A turn whose waiter has left goes when it comes to the head: what the waiter holds
    is free at once.
    """

    __slots__ = ("_turns", "waiters")

    def __init__(self) -> None:
        self.waiters: dict[int, Waiter] = {}
        self._turns: list[int] = []

    def add(self, waiter: Waiter) -> None:
        self.waiters[waiter.turn] = waiter
        heapq.heappush(self._turns, waiter.turn)
        if len(self._turns) > 2 * len(self.waiters) + _SLACK:
            self._turns = sorted(self.waiters)

    def first(self) -> Waiter:
        turns = self._turns
        while turns[0] not in self.waiters:
            heapq.heappop(turns)
        return self.waiters[turns[0]]


class _Queue:
    """Those who wait for one thing: a lane for each caller, and the lanes in the order in which they are to be served.
    Whoever was served goes to the end.
    """

    __slots__ = ("lanes", "size")

    def __init__(self) -> None:
        self.lanes: dict[str, _Lane] = {}
        self.size = 0

    def add(self, waiter: Waiter) -> None:
        lane = self.lanes.get(waiter.caller)
        if lane is None:
            lane = self.lanes[waiter.caller] = _Lane()
        lane.add(waiter)
        self.size += 1

    def remove(self, waiter: Waiter) -> None:
        lane = self.lanes[waiter.caller]
        del lane.waiters[waiter.turn]
        self.size -= 1
        if not lane.waiters:
            del self.lanes[waiter.caller]

    def first(self) -> Waiter | None:
        lane = next(iter(self.lanes.values()), None)
        return lane.first() if lane is not None else None

    def served(self, caller: str) -> None:
        lane = self.lanes.pop(caller, None)
        if lane is not None:
            self.lanes[caller] = lane


class WaitingCalls:
    """The queues. `changed` is called when a queue comes to be, and when one is empty. `size` are the bytes of all
    bodies that wait.
    """

    def __init__(self) -> None:
        self.changed: Callable[[], None] = lambda: None
        self.size = 0
        self._queues: dict[Sought, _Queue] = {}
        self._sought: dict[Waiter, Sought] = {}
        self._turns = itertools.count(1)

    def __len__(self) -> int:
        return len(self._sought)

    @property
    def counts(self) -> dict[Sought, int]:
        """How many wait for what."""
        return {sought: queue.size for sought, queue in tuple(self._queues.items())}  # for other threads, too

    def traced(self, sought: Sought) -> TraceContext | None:
        """The span of one that waits for it: of one that is sampled, if any is."""
        queue = self._queues.get(sought)
        waiters = (waiter for lane in queue.lanes.values() for waiter in lane.waiters.values()) if queue else ()
        places = [waiter.context for waiter in itertools.islice(waiters, _LOOKED_AT)]
        return max(filter(None, places), key=lambda place: place.sampled, default=None)

    def add(self, waiter: Waiter, sought: Sought) -> None:
        """Waits, behind all of its caller's that came before."""
        self.leave(waiter)
        waiter.turn = waiter.turn or next(self._turns)
        self._sought[waiter] = sought
        self.size += waiter.size
        queue = self._queues.get(sought)
        if queue is None:
            queue = self._queues[sought] = _Queue()
            self.changed()
        queue.add(waiter)

    def leave(self, waiter: Waiter) -> None:
        """Waits no longer."""
        sought = self._sought.pop(waiter, None)
        if sought is None:
            return
        self.size -= waiter.size
        queue = self._queues[sought]
        queue.remove(waiter)
        if not queue.size:
            del self._queues[sought]
            self.changed()

    def first(self, sought: Sought) -> Waiter | None:
        """Whose turn it is."""
        queue = self._queues.get(sought)
        return queue.first() if queue is not None else None

    def wake(self, waiter: Waiter) -> None:
        """Sends one on its way."""
        self.leave(waiter)
        waiter.next_attempt()

    def wake_all(self, sought: Sought) -> None:
        """Sends all who wait for it on their way, in order."""
        for waiter in list(self.of(sought)):
            if waiter in self._sought:
                self.wake(waiter)

    def wake_in_order(self, seeking: Iterable[Sought], can_go: Callable[[Sought], bool]) -> None:
        """Sends those on their way who wait for any of these, as long as one can go: of the queues' next ones whoever
        has waited longest first.

        One that at once waits again, as its own limits hold it back, holds up its caller's calls until the next time,
        and after a few such ones its queue.
        """
        heads = [(first.turn, sought, 0) for sought in seeking if (first := self.first(sought)) is not None]
        heapq.heapify(heads)
        while heads:
            _, sought, held = heapq.heappop(heads)
            waiter = self.first(sought)
            if waiter is None or not can_go(sought):
                continue
            self.wake(waiter)
            queue = self._queues.get(sought)
            if queue is None:
                continue
            queue.served(waiter.caller)
            if waiter in self._sought:
                held += 1
                if held >= min(_HELD, len(queue.lanes)):
                    continue
            if (following := queue.first()) is not None:
                heapq.heappush(heads, (following.turn, sought, held))

    def of(self, sought: Sought) -> Iterator[Waiter]:
        """Those who wait for it, in order."""
        queue = self._queues.get(sought)
        lanes = queue.lanes.values() if queue is not None else ()
        return iter(sorted((waiter for lane in lanes for waiter in lane.waiters.values()), key=_turn))


def _turn(waiter: Waiter) -> int:
    return waiter.turn
