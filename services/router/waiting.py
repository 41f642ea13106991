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
"""Turns of calls that have left, beside those that wait, before a queue is cleaned."""


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


class _Queue:
    """Those who wait for one thing, by turn. A turn whose waiter has left goes when it comes to the head: what the
    waiter holds is free at once.
    """

    def __init__(self) -> None:
        self.waiters: dict[int, Waiter] = {}
        self._turns: list[int] = []

    def add(self, waiter: Waiter) -> None:
        self.waiters[waiter.turn] = waiter
        heapq.heappush(self._turns, waiter.turn)
        if len(self._turns) > 2 * len(self.waiters) + _SLACK:
            self._turns = sorted(self.waiters)

    def first(self) -> Waiter | None:
        turns = self._turns
        while turns and turns[0] not in self.waiters:
            heapq.heappop(turns)
        return self.waiters[turns[0]] if turns else None


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
        return {sought: len(queue.waiters) for sought, queue in self._queues.items()}

    def add(self, waiter: Waiter, sought: Sought) -> None:
        """Waits, behind all who came before."""
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
        del queue.waiters[waiter.turn]
        if not queue.waiters:
            del self._queues[sought]
            self.changed()

    def first(self, sought: Sought) -> Waiter | None:
        """Whoever has waited longest for it."""
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
        queue = self._queues.get(sought)
        return (waiter for _, waiter in sorted(queue.waiters.items(), key=_turn)) if queue is not None else iter(())


def _turn(entry: tuple[int, Waiter]) -> int:
    return entry[0]
