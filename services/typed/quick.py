"""Events that say nothing but what nearly all of a stream consists of, read at once: how it begins, pieces of text, how
it ends. Pure.

Any other event is read member by member, which takes five times as long; a test compares the two ways.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw

from services.typed.raw import NULL
from services.typed.shape import Fields
from services.typed.templates import NONE, Template, template_of

ALWAYS: Final = frozenset({"id", "object", "created", "model"})
"""Members that are the same in every event: as soon as one changes, there is no quick way."""

_Int32 = Annotated[int, Meta(ge=-(1 << 31), le=(1 << 31) - 1)]
_Int64 = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


class _Usage(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    prompt_tokens: _Int64 = 0
    completion_tokens: _Int64 = 0
    total_tokens: _Int64 = 0
    prompt_tokens_details: None = None
    completion_tokens_details: None = None

    def fields(self) -> Fields:
        """What was used."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
        }


class _Event(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What stands in every event; all but `usage` must be as it was in the first."""

    id: Raw
    object: Raw
    created: Raw
    model: Raw
    usage: _Usage | None = None


class _Choice(msgspec.Struct, forbid_unknown_fields=True, gc=False, kw_only=True):
    index: _Int32
    logprobs: None = None
    finish_reason: str | None = None
    stop_reason: Raw = NULL
    token_ids: None = None


class _Delta(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: str | None = None
    content: str | None = None
    reasoning: str | None = None


class _ChatChoice(_Choice, forbid_unknown_fields=True, gc=False, kw_only=True):
    delta: _Delta

    def fields(self) -> Fields:
        """What is said."""
        delta = self.delta
        fields: Fields = {"index": self.index}
        if delta.role is not None:
            fields["role"] = delta.role
        if delta.content is not None:
            fields["content"] = delta.content
        if delta.reasoning is not None:
            fields["reasoning"] = delta.reasoning
        return fields


class _TextChoice(_Choice, forbid_unknown_fields=True, gc=False, kw_only=True):
    text: str
    prompt_token_ids: None = None

    def fields(self) -> Fields:
        """What is said."""
        return {"index": self.index, "text": self.text}


class ChatEvent(_Event, forbid_unknown_fields=True, gc=False, kw_only=True):
    """An event of a chat."""

    choices: list[_ChatChoice]


class TextEvent(_Event, forbid_unknown_fields=True, gc=False, kw_only=True):
    """An event of a completion."""

    choices: list[_TextChoice]


class QuickReader:
    """Reads the events of one answer, by the first of which it knows what stands in all."""

    template: Template = NONE
    """What stands around the texts of events that differ in nothing else."""

    def __init__(self, decode: Callable[[bytes], Any], constant: Raw) -> None:
        """`constant` is what each event's `object` says."""
        self._decode = decode
        self._constant = constant
        self._said: tuple[Raw | None, ...] | None = None
        self._known: set[tuple[int, str]] = set()

    def begin(self, found: dict[str, Raw]) -> None:
        """Takes members of the first event."""
        self._said = (found.get("id"), found.get("created"), found.get("model"))

    def stop(self) -> None:
        """From now on, there is no quick way."""
        self._said = ()
        self.template = NONE

    def read(self, data: bytes) -> Any:
        """An event; None if it is of another kind."""
        try:
            event = self._decode(data)
        except (msgspec.DecodeError, RecursionError):
            return None
        if event.object != self._constant:
            return None
        if self._said is not None and (event.id, event.created, event.model) != self._said:
            return None
        for one in event.choices:
            if one.finish_reason is None and one.stop_reason != NULL:
                return None
        return event

    def learn(self, data: bytes, said: Fields) -> None:
        """Takes the template of an event that says this alone, if it is the first of its kind."""
        index, key = said["index"], next(reversed(said))
        if len(said) == 2 and (index, key) not in self._known:
            self._known.add((index, key))
            self.template = template_of(data, index, key) or self.template
