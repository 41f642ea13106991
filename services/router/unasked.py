"""Taking out of a stream of vLLM's what `include_usage` has added to it, which the caller has not asked for; pure.

vLLM 0.32 does two things with `include_usage` (`entrypoints/openai/{chat_completion,completion}/serving.py`): before
`[DONE]` comes an event without choices, which holds the usage; and `system_fingerprint` stands there, and not in the
event that finishes each choice. So the finishing events wait for the usage, which follows at once (with `n` above one,
as soon as the last choice is finished), and get the fingerprint that they would have had. Everything else passes as it
came. A server with `--enable-force-include-usage` says its usage to everybody, in every event: nothing is taken out.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from services.router.usage_reader import Usage, read_usage

_FINISHED: Final = b'"finish_reason":"'
_NO_CHOICES: Final = b'"choices":[]'
_USAGE: Final = b'"usage":{'
_LAST: Final = (b"data: [DONE]", b'data: {"error":')
_CLOSE: Final = b"}\n\n"
_END: Final = b"\n\n"
"""As vLLM writes them. Within a JSON string no quote stands without a backslash before it: text cannot look so."""

_LONGEST_EVENT: Final = 16 * 1024
"""Bytes of an event that are kept together; a longer one (with the prompt's logprobs) passes as it comes."""
_MOST_HELD: Final = 64 * 1024
"""Bytes of finishing events that wait; beyond them they pass, without their fingerprint."""


class _Event(msgspec.Struct, gc=False):
    choices: Any = None
    usage: Any = None
    system_fingerprint: msgspec.Raw = msgspec.Raw()


_event = msgspec.json.Decoder(_Event)


class Unasked:
    """Takes the chunks of a stream, and gives what the caller gets of them. `usage` is what was taken out."""

    __slots__ = ("_forced", "_held", "_held_size", "_inside", "_looked", "_partial", "usage")

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self._partial = b""
        self._forced = False
        self._inside = False
        self._looked = False
        self._held: list[bytes] = []
        self._held_size = 0

    def feed(self, chunk: bytes) -> bytes:
        """What passes now, with this chunk."""
        if (
            self._looked
            and not self._partial
            and chunk.endswith(_END)
            and _FINISHED not in chunk
            and _NO_CHOICES not in chunk
            and not self._held
        ):
            return chunk
        return self._slowly(chunk)

    def end(self) -> bytes:
        """What is left when the stream has ended, or has broken off."""
        rest = b"".join((*self._release(b""), self._partial))
        self._partial = b""
        return rest

    def _slowly(self, chunk: bytes) -> bytes:
        passed: list[bytes] = []
        text = self._partial + chunk
        if b"\r\n" in text:
            # No stream of vLLM's: within JSON a line's end has a backslash. Looked for the other ends it would stand
            # still.
            self._forced, self._partial = True, b""
            return b"".join((*self._release(b""), text))
        start = 0
        while (end := text.find(_END, start)) >= 0:
            event, start = text[start : end + 2], end + 2
            if self._inside:
                self._inside = False
                passed.append(event)
            else:
                passed += self._take(event)
        rest = text[start:]
        if self._inside or len(rest) > _LONGEST_EVENT:
            # Its last byte may be the first one of its end.
            self._inside = True
            passed.append(rest[:-1])
            rest = rest[-1:]
        self._partial = rest
        return b"".join(passed)

    def _take(self, event: bytes) -> tuple[bytes, ...]:
        if not self._looked and event.startswith(b"data:"):
            self._looked = True
            self._forced = _USAGE in event and _NO_CHOICES not in event
        if self._forced:
            return (event,)
        if event.startswith(_LAST):
            return (*self._release(b""), event)
        if _NO_CHOICES in event and (found := _added(event)) is not None:
            self.usage = read_usage(found.usage)
            return tuple(self._release(bytes(found.system_fingerprint)))
        if _FINISHED in event and event.endswith(_CLOSE) and self._held_size + len(event) <= _MOST_HELD:
            self._held.append(event)
            self._held_size += len(event)
            return ()
        return (event,)

    def _release(self, fingerprint: bytes) -> list[bytes]:
        held, self._held, self._held_size = self._held, [], 0
        if not fingerprint or fingerprint == b"null":
            return held
        stamp = b',"system_fingerprint":' + fingerprint + _CLOSE
        return [event[: -len(_CLOSE)] + stamp for event in held]


def _added(event: bytes) -> _Event | None:
    """The event that holds the usage, if this is it."""
    try:
        found = _event.decode(event[len(b"data:") :])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if found.choices == [] and isinstance(found.usage, dict) else None
