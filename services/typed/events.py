"""Server-sent events, read from bytes as they come (https://html.spec.whatwg.org/multipage/server-sent-events.html).
Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from services.core.errors import Reason, ServiceError

_LONGEST: Final = 64 * 1024 * 1024
"""Bytes of an unfinished event that are held: more, no message can hold either."""


class Event(NamedTuple):
    """What an event says: its data, or a comment."""

    data: bytes
    comment: bool = False


class EventReader:
    """Takes bytes, gives the events that are whole."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._looked = 0
        self._returned = False
        """Whether the last byte was a carriage return: a line feed that follows belongs to the same line's end."""

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that these bytes complete. Raises UPSTREAM_BROKEN for one that never ends."""
        return events(self.whole(chunk))

    def whole(self, chunk: bytes) -> bytes:
        """The text of the events that these bytes complete, without the empty line at its end."""
        if self._returned and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._returned = False
        if b"\r" in chunk:
            self._returned = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        held = self._held
        if not held and chunk.endswith(b"\n\n"):  # as vLLM writes them
            return chunk[:-2]
        held += chunk
        end = held.rfind(b"\n\n", max(0, self._looked - 1))
        text = b""
        if end >= 0:
            text = bytes(held[:end])
            del held[: end + 2]
        elif len(held) > _LONGEST:
            raise ServiceError(Reason.UPSTREAM_BROKEN, "The model server sends an event that does not end.")
        self._looked = len(held)
        return text


def events(text: bytes) -> Iterator[Event]:
    """The events of a text that holds whole ones."""
    for block in text.split(b"\n\n"):
        yield from _event(block)


def _event(block: bytes) -> Iterator[Event]:
    data = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if line.startswith(b":"):
            yield Event(value.strip(), comment=True)
        elif name == b"data":
            data.append(value.removeprefix(b" "))
    if data:
        yield Event(b"\n".join(data))
