"""What an answer says that it used; pure, and blind to everything else in it.

An answer is kept by its two ends alone, as it passes: usage stands in the last event of a stream (Anthropic's begins
with the prompt's), and at the end of a whole body, of rankings at its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from json import JSONDecoder
from typing import Any, Final, NamedTuple

import msgspec

from services.core.inference import Head

_HEAD: Final = 4096
_TAIL: Final = 16 * 1024
"""Bytes that are kept of the two ends of an answer."""
_MOST: Final = 2 * _TAIL

_MOST_TOKENS: Final = 1 << 40
"""What an answer may say at most: a server's nonsense is not to spoil the sums, nor the store's numbers."""

_KEY: Final = b'"usage":'
_END: Final = b"\n\n"
_DONE: Final = b"data: [DONE]\n\n"
_LAST_EVENTS: Final = (b"event: message_stop\n", b"event: response.completed\n", b"event: response.incomplete\n")
_LAST_ENDS: Final = (b'"type":"response.completed"}\n\n', b'"type":"response.incomplete"}\n\n')
_FROM_TEXT: Final = JSONDecoder()


class Usage(NamedTuple):
    """Tokens of prompts, of answers, and those of the prompts that had been computed before."""

    input: int
    output: int
    cached: int = 0


class UsageReader:
    """Takes an answer as it passes, and tells at the end what it used."""

    __slots__ = ("_cut", "_head", "_parts", "_size")

    def __init__(self) -> None:
        self._cut = 0
        self._head = b""
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        """A piece of the answer."""
        self._parts.append(chunk)
        self._size += len(chunk)
        if self._size > _MOST:
            self._shorten()

    def _shorten(self) -> None:
        text = b"".join(self._parts)
        self._head = self._head or text[:_HEAD]
        self._cut += len(text) - _TAIL
        self._parts = [text[-_TAIL:]]
        self._size = _TAIL

    @property
    def passed(self) -> int:
        """Bytes that have come."""
        return self._cut + self._size

    @property
    def whole(self) -> bool:
        """Whether the end of a stream has passed, if it is one: clients leave when they have it."""
        tail = b"".join(self._parts)
        # An event begins on a line of its own and ends with its own members: there no text of a model or of a caller
        # can stand.
        last = tail[tail.rfind(_END, 0, -len(_END)) + len(_END) :] if tail.endswith(_END) else b""
        return tail.endswith((_DONE, *_LAST_ENDS)) or last.startswith(_LAST_EVENTS)

    def read(self, head: Head) -> Usage | None:
        """What it used, as far as it says so."""
        if described := head.header("metadata"):  # vLLM's, of embeddings as bytes
            return _decoded(described.encode())
        media = head.header("content-type") or ""
        tail = b"".join(self._parts)
        if media.startswith("application/json"):
            return _found(tail) or _found(self._head) if self._cut else _decoded(tail)
        return _of_events(tail, self._head or tail) if media.startswith("text/event-stream") else None


def _of_events(tail: bytes, beginning: bytes) -> Usage | None:
    last = next(filter(None, map(_decoded, _backwards(tail))), None) or _found(tail)
    if last is None or last.input:
        return last
    # Anthropic's own servers tell of the prompt at the beginning alone.
    first = next(filter(None, map(_decoded, reversed(list(_backwards(beginning))))), last)
    return Usage(first.input, last.output, first.cached)


def read_usage(value: object) -> Usage | None:
    """The usage that an object says, by OpenAI's names or Anthropic's; None if it is none."""
    if not isinstance(value, dict):
        return None
    given, answered = (
        _number(value, "prompt_tokens", "input_tokens"),
        _number(value, "completion_tokens", "output_tokens"),
    )
    total = _number(value, "total_tokens")
    if given is None and answered is None and total is None:
        return None
    if given is None:
        given = max(0, (total or 0) - (answered or 0))
    details = value.get("prompt_tokens_details") or value.get("input_tokens_details")
    if isinstance(details, dict):
        cached = _number(details, "cached_tokens") or 0
    else:
        # Anthropic counts what was cached, and what was put there, beside `input_tokens`.
        cached = _number(value, "cache_read_input_tokens") or 0
        given += cached + (_number(value, "cache_creation_input_tokens") or 0)
    return Usage(given, answered or 0, cached)


def _number(value: dict[str, Any], *keys: str) -> int | None:
    for key in keys:
        found = value.get(key)
        if type(found) is int and found >= 0:
            return min(found, _MOST_TOKENS)
    return None


class _Inner(msgspec.Struct, gc=False):
    usage: Any = None


class _Said(msgspec.Struct, gc=False):
    """Where usage stands: in a body or an event itself, or in the answer that an event tells of."""

    usage: Any = None
    response: _Inner | None = None
    message: _Inner | None = None


_said = msgspec.json.Decoder(_Said)


def _decoded(text: bytes) -> Usage | None:
    if b'"usage"' not in text:
        return None
    try:
        said = _said.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    inner = said.response or said.message
    return read_usage(said.usage if said.usage is not None or inner is None else inner.usage)


def _found(text: bytes) -> Usage | None:
    """The usage in a piece of JSON, wherever the piece was cut off: the last, since tools that a caller has described
    stand before it, which may look like one. In a string it would have backslashes.
    """
    at = text.rfind(_KEY)
    if at < 0:
        return None
    piece = text[at + len(_KEY) : at + len(_KEY) + _HEAD].decode("utf-8", "replace").lstrip()
    try:
        return read_usage(_FROM_TEXT.raw_decode(piece)[0])
    except (ValueError, RecursionError):
        return None


def _backwards(text: bytes) -> Iterator[bytes]:
    """The data of the events in a text, the last first."""
    end = len(text)
    while (at := text.rfind(b"data:", 0, end)) >= 0:
        if at == 0 or text[at - 1 : at] in (b"\n", b"\r"):
            yield text[at + len(b"data:") : end].partition(b"\n")[0]
        end = at
