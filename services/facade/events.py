"""Server-sent events, as far as a relay must know them: where one ends (https://html.spec.whatwg.org/multipage/server-
sent-events.html).
"""

from __future__ import annotations

from typing import Final

_ENDS: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")
_LONGEST: Final = 4 * 1024 * 1024
"""Bytes of an unfinished event that are held at most: a server that never ends one must not fill the memory."""


class EventBoundary:
    """Lets bytes through up to the end of the last whole event, so that an error event never follows half of one.

    `torn` tells that half of one has gone out all the same, as it grew too long to be held.
    """

    __slots__ = ("_held", "torn")

    def __init__(self) -> None:
        self._held = b""
        self.torn = False

    def feed(self, chunk: bytes) -> bytes:
        """The bytes that may go out now."""
        if not self._held and chunk.endswith(_ENDS):
            self.torn = False
            return chunk
        data = self._held + chunk
        cut = max(data.rfind(end) + len(end) if end in data else 0 for end in _ENDS)
        if cut:
            self.torn = False
        if len(data) - cut > _LONGEST:
            self.torn = True
            cut = len(data)
        self._held = data[cut:]
        return data[:cut]

    def rest(self) -> bytes:
        """What is held, at the end of a stream that ended well."""
        held, self._held = self._held, b""
        return held
