"""The events that nearly all of a stream is made of, read at once: pieces of text, and nothing else that is new. Pure.

Any other event is read member by member, which takes ten times as long; a test compares the two ways.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Raw

from services.typed.shape import Fields

ALWAYS: Final = frozenset({"id", "object", "created", "model"})
"""Members that are the same in every event: as soon as one changes, there is no quick way."""

_MOST: Final = (1 << 31) - 1


class _Event(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What stands in every event, and must be as it was in the first."""

    id: Raw
    object: Raw
    created: Raw
    model: Raw
    usage: None = None


class _Delta(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    content: str


class _ChatChoice(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    index: int
    delta: _Delta
    logprobs: None = None
    finish_reason: None = None
    stop_reason: None = None
    token_ids: None = None


class _Text(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    index: int
    text: str
    logprobs: None = None
    finish_reason: None = None
    stop_reason: None = None
    prompt_token_ids: None = None
    token_ids: None = None


class _ChatEvent(_Event, forbid_unknown_fields=True, gc=False, kw_only=True):
    choices: list[_ChatChoice]


class _TextEvent(_Event, forbid_unknown_fields=True, gc=False, kw_only=True):
    choices: list[_Text]


_chat = msgspec.json.Decoder(_ChatEvent).decode
_text = msgspec.json.Decoder(_TextEvent).decode


class QuickReader:
    """Reads the pieces of text of one answer, by the first event of which it knows what stands in all."""

    def __init__(self, first: dict[str, Raw], constant: Raw, *, chat: bool) -> None:
        """`first` are members of the first event."""
        self._said = (constant, first.get("id"), first.get("created"), first.get("model"))
        self._chat = chat

    def read(self, data: bytes) -> list[Fields] | None:
        """The deltas of an event, with their indices; None if it is of another kind."""
        try:
            event: Any = _chat(data) if self._chat else _text(data)
        except (msgspec.DecodeError, RecursionError):
            return None
        if (event.object, event.id, event.created, event.model) != self._said:
            return None
        if not all(0 <= one.index <= _MOST for one in event.choices):
            return None
        if self._chat:
            return [{"index": one.index, "content": one.delta.content} for one in event.choices]
        return [{"index": one.index, "text": one.text} for one in event.choices]
