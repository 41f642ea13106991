"""Calls that wait for a server: in one queue for each thing that is sought, in the order in which they came; pure.

What happens to a server or a model concerns the queues that seek it, and those calls at their heads that can go. Work
grows with the number of queues, and not with that of the calls.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from services.router.targets import Sought

_SLACK: Final = 64
"""Entries of calls that have left, beside those that wait, before a queue is cleaned."""


class Waiter(Protocol):
    """A call that waits. `turn` is its place among all, 0 before it has waited: one that waits again keeps it."""

    turn: int

    @property
    def size(self) -> int:
        """The size of its body, in bytes."""

    def next_attempt(self) -> None:
        """Something may serve it now. It waits no longer, unless it says so again."""

    def state_changed(self) -> None:
        """What it waits for is in another state; it goes on waiting."""


class WaitingCalls:
    """The queues. `changed` is called when a queue comes to be, and when one is empty. `size` are the bytes of all
    bodies that wait.
    """

    def __init__(self) -> None:
        self.changed: Callable[[], None] = lambda: None
        self.size = 0
        self._queues: dict[Sought, list[tuple[int, Waiter]]] = {}
        self._counts: dict[Sought, int] = {}
        self._sought: dict[Waiter, Sought] = {}
        self._turns = itertools.count(1)

    def __len__(self) -> int:
        return len(self._sought)

    @property
    def counts(self) -> dict[Sought, int]:
        """How many wait for what."""
        return dict(self._counts)

    def add(self, waiter: Waiter, sought: Sought) -> None:
        """Waits, behind all who came before."""
        self.leave(waiter)
        waiter.turn = waiter.turn or next(self._turns)
        self._sought[waiter] = sought
        self.size += waiter.size
        queue = self._queues.setdefault(sought, [])
        heapq.heappush(queue, (waiter.turn, waiter))
        count = self._counts[sought] = self._counts.get(sought, 0) + 1
        if count == 1:
            self.changed()
        elif len(queue) > 2 * count + _SLACK:
            queue[:] = sorted({entry for entry in queue if self._sought.get(entry[1]) == sought}, key=_turn)

    def leave(self, waiter: Waiter) -> None:
        """Waits no longer. Its entry goes when it comes to the head."""
        sought = self._sought.pop(waiter, None)
        if sought is None:
            return
        self.size -= waiter.size
        self._counts[sought] -= 1
        if not self._counts[sought]:
            del self._counts[sought], self._queues[sought]
            self.changed()

    def first(self, sought: Sought) -> Waiter | None:
        """Whoever has waited longest for it."""
        queue = self._queues.get(sought, [])
        while queue and self._sought.get(queue[0][1]) != sought:
            heapq.heappop(queue)
        return queue[0][1] if queue else None

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
        """Sends those on their way who wait for any of these, whoever has waited longest first, as long as one can go.

        One that at once waits again holds up its queue until the next time.
        """
        heads = [(first.turn, sought) for sought in seeking if (first := self.first(sought)) is not None]
        heapq.heapify(heads)
        while heads:
            _, sought = heapq.heappop(heads)
            waiter = self.first(sought)
            if waiter is None or not can_go(sought):
                continue
            self.wake(waiter)
            if waiter not in self._sought and (following := self.first(sought)) is not None:
                heapq.heappush(heads, (following.turn, sought))

    def of(self, sought: Sought) -> Iterator[Waiter]:
        """Those who wait for it, in order."""
        entries = {entry for entry in self._queues.get(sought, ()) if self._sought.get(entry[1]) == sought}
        return (waiter for _, waiter in sorted(entries, key=_turn))


def _turn(entry: tuple[int, Waiter]) -> int:
    return entry[0]
