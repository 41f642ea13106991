"""What was asked and answered, shortened, for spans: only where an operator has turned it on; pure.

Both are told as JSON by OpenTelemetry's conventions, a list of messages with `role` and `parts`
(https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

MOST: Final = 4096
"""Bytes of each."""
_KEPT: Final = 64 * 1024
"""Bytes of an answer that are kept until it has ended: events say little in many bytes."""
_LARGEST: Final = 1024 * 1024
"""Bytes of a request that is read for it."""
_TRIES: Final = (3072, 1536, 512, 128)
"""Bytes of text; fewer, where what stands around it, and its escapes, take too many."""
_MOST_MESSAGES: Final = 16

Said = list[tuple[str, str]]
"""Roles and texts."""


class Beginning:
    """Keeps the beginning of an answer as it passes on to `feed`."""

    __slots__ = ("_feed", "_left", "_pieces")

    def __init__(self, feed: Callable[[bytes], None]) -> None:
        self._feed = feed
        self._pieces: list[bytes] = []
        self._left = _KEPT

    def feed(self, chunk: bytes) -> None:
        """A piece of the answer."""
        if self._left > 0:
            self._pieces.append(chunk[: self._left])
            self._left -= len(chunk)
        self._feed(chunk)

    @property
    def beginning(self) -> bytes:
        """What was kept."""
        return b"".join(self._pieces)


def input_messages(body: bytes) -> str:
    """What a request's body asks. Empty where it cannot be told."""
    asked = _decoded(body) if len(body) <= _LARGEST else None
    if not isinstance(asked, dict):
        return ""
    said: Said = [("system", _text(asked[key])) for key in ("system", "instructions") if key in asked]
    for key in ("messages", "prompt", "input", "query"):
        value = asked.get(key)
        if isinstance(value, list) and all(isinstance(one, dict) for one in value):
            said += [(_text(one.get("role")) or "user", _text(one.get("content"))) for one in value]
        elif value is not None:
            said.append(("user", _text(value)))
    return _told(said)


def output_messages(answer: bytes) -> str:
    """What an answer's beginning says, a whole one or a stream of events. Empty where it cannot be told."""
    texts: dict[int, str] = {}
    for piece in _pieces(answer):
        for place, text in _spoken(piece):
            texts[place] = texts.get(place, "") + text
    return _told([("assistant", text) for text in texts.values()])


def _pieces(answer: bytes) -> Iterable[dict[str, Any]]:
    """The objects of an answer: itself, or those of its events; an event that was cut off is none."""
    events = [line[5:] for line in answer.splitlines() if line.startswith(b"data:")]
    for text in events or (answer,):
        piece = _decoded(text)
        if isinstance(piece, dict):
            yield piece


def _spoken(piece: dict[str, Any]) -> Iterable[tuple[int, str]]:
    """Texts of a piece, each with the place of the answer that it belongs to, of several."""
    choices = piece.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            message = choice.get("delta") or choice.get("message") or {}
            text = _text(message.get("content")) if isinstance(message, dict) else ""
            place = choice.get("index")
            yield place if isinstance(place, int) else 0, text or _text(choice.get("text"))
    delta = piece.get("delta")
    if isinstance(delta, str | dict):  # of OpenAI's responses, and Anthropic's messages
        yield 0, _text(delta)
    if isinstance(piece.get("content"), list):
        yield 0, _text(piece["content"])
    output = piece.get("output")
    for item in output if isinstance(output, list) else ():
        if isinstance(item, dict):
            yield 0, _text(item.get("content"))


def _text(value: object) -> str:
    """The text in a content: a string, a part with one, or a list of either. What is no text has none."""
    parts = value if isinstance(value, list) else [value]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "".join([text for text in texts if isinstance(text, str)])


def _told(said: Said) -> str:
    """In JSON, in at most `MOST` bytes. Of many messages the last are told, as the first repeat themselves."""
    said = said[-_MOST_MESSAGES:]
    if not any(text for _, text in said):
        return ""
    for most in _TRIES:
        left, messages = most, []
        for role, text in reversed(said):
            short = text[:left].encode("utf-8", "replace")[:left].decode("utf-8", "ignore")
            left -= len(short.encode())
            messages.append({"role": role[:32], "parts": [{"type": "text", "content": short}]})
        told = msgspec.json.encode(messages[::-1])
        if len(told) <= MOST:
            return told.decode()
    return ""


def _decoded(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
