"""What a peer still has to send: a lane per call, emptied in turns, with control frames ahead of all lanes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from services.rpc.frames import Frames, Item, encode, weight

MESSAGE_BYTES: Final = 256 * 1024
"""A message holds about so much at most, so that control frames never wait behind more than that."""

QUANTUM_BYTES: Final = 16 * 1024
"""What one lane may put into a message before the next lane has its turn."""

LANE_BYTES: Final = 512
"""What a lane's turn counts for beside its data: heads and openings bear headers, and thousands of them in one message
would exceed what gRPC takes."""


class Lane:
    """The frames of one call that are still to be sent, in order."""

    __slots__ = ("call", "items", "scheduled", "started")

    def __init__(self, call: int) -> None:
        self.call = call
        self.items: deque[Item] = deque()
        self.scheduled = False
        self.started = False


class Outbox:
    """Gathers frames until the writer takes them. Calls `wake` when there is something to take."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._control: list[tuple[int, Item]] = []
        self._lanes: deque[Lane] = deque()
        self.data_bytes = 0

    def __len__(self) -> int:
        """Control frames and lanes that wait."""
        return len(self._control) + len(self._lanes)

    def __bool__(self) -> bool:
        return bool(self._control or self._lanes)

    def control(self, call: int, item: Item) -> None:
        """Adds a frame that goes ahead of all lanes."""
        self._control.append((call, item))
        self._wake()

    def put(self, lane: Lane, item: Item) -> None:
        """Adds a frame behind the others of its call."""
        self.data_bytes += weight(item)
        lane.items.append(item)
        if not lane.scheduled:
            lane.scheduled = True
            self._lanes.append(lane)
            self._wake()

    def drop(self, lane: Lane) -> None:
        """Forgets what a call still had to send."""
        self.data_bytes -= sum(map(weight, lane.items))
        lane.items.clear()
        # A lane that is scheduled and empty is passed over when its turn comes.

    def clear(self) -> None:
        """Forgets what all calls still had to send. Control frames stay: one may say why the stream ends."""
        for lane in self._lanes:
            lane.items.clear()
            lane.scheduled = False
        self._lanes.clear()
        self.data_bytes = 0

    def take(self, frames: Frames) -> None:
        """Moves the next frames into a message, at most about MESSAGE_BYTES."""
        for call, item in self._control:
            encode(frames, call, item)
        self._control.clear()
        lanes = self._lanes
        room = MESSAGE_BYTES
        while lanes and room > 0:
            lane = lanes.popleft()
            room -= self._emit(lane, frames) + LANE_BYTES
            if lane.items:
                lanes.append(lane)
            else:
                lane.scheduled = False

    def _emit(self, lane: Lane, frames: Frames) -> int:
        items = lane.items
        emitted = 0
        while items and emitted < QUANTUM_BYTES:
            item = items.popleft()
            if type(item) is bytes:
                item = _join(item, items)
                if len(item) > QUANTUM_BYTES:
                    items.appendleft(item[QUANTUM_BYTES:])
                    item = item[:QUANTUM_BYTES]
            emitted += weight(item)
            encode(frames, lane.call, item)
            lane.started = True
        self.data_bytes -= emitted
        return emitted


def _join(chunk: bytes, items: deque[Item]) -> bytes:
    """The chunk with those that follow it: while a write was in flight, tokens of a call gathered."""
    if not items or type(items[0]) is not bytes:
        return chunk
    chunks = [chunk]
    size = len(chunk)
    while items and size < QUANTUM_BYTES and type(items[0]) is bytes:
        following = items.popleft()
        assert isinstance(following, bytes)
        chunks.append(following)
        size += len(following)
    return b"".join(chunks)
