"""How many tokens a call may use at most, reckoned before it is made; pure.

A token stands for at least one byte of text, so the bytes of the body bound its prompt; what the body only points to
(an image by its URL, an earlier response) is reckoned at a set number. `max_tokens` bounds the answer, once for each
text that is asked for. Where the caller gives none, a cap is spliced into the body, so that the bound is a true one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET

from services.core.errors import Reason, ServiceError
from services.router.body import Fields, Wanted
from services.router.splice import Edit


class Reckoning(NamedTuple):
    """How calls are reckoned, in tokens: the answer of a caller who gives no bound; what a chat template adds to a
    prompt; and whatever the body points to without holding it.
    """

    answer: int = 4096
    overhead: int = 256
    unseen: int = 16384


class Bound(NamedTuple):
    """The most that a call may use, in tokens: of its prompts, and of each of its `texts`. `keys` are those that bound
    an answer in this operation, `given` whether the caller gave one.
    """

    prompt: int
    answer: int
    texts: int
    keys: tuple[str, ...]
    given: bool

    @property
    def tokens(self) -> int:
        """Of prompt and answers together."""
        return self.tokens_with(self.answer)

    def tokens_with(self, answer: int) -> int:
        """The same, with each answer bounded otherwise."""
        return min(self.prompt + answer * self.texts, MOST_TOKENS)


NOTHING: Final = Bound(0, 0, 0, (), given=True)


class _Operation(NamedTuple):
    keys: tuple[str, ...]
    default: int = 0


MOST_TOKENS: Final = 1 << 50
"""What any call is reckoned at most: it fits into every store's numbers."""

GENERATING: Final = {
    "/v1/chat/completions": _Operation(("max_tokens", "max_completion_tokens")),
    "/v1/chat/completions/batch": _Operation(("max_tokens", "max_completion_tokens")),
    # OpenAI's default, and vLLM's: a cap above it would make answers longer.
    "/v1/completions": _Operation(("max_tokens",), default=16),
    "/v1/responses": _Operation(("max_output_tokens",)),
    "/v1/messages": _Operation(("max_tokens",)),
}
"""The keys that bound an answer, by operation. The first is the one that every server knows."""

_FREE: Final = frozenset({"/detokenize", "/tokenize", "/v1/messages/count_tokens"})
"""Operations that no model computes, and vLLM's `/render`, which end in that."""

_SILENT: Final = frozenset(
    {
        "/classify",
        "/generative_scoring",
        "/pooling",
        "/rerank",
        "/score",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/score",
        "/v2/embed",
        "/v2/rerank",
    }
)
"""Operations that generate nothing."""

_POINTERS: Final = frozenset(
    {
        *("audio_embeds", "audio_url", "document", "file", "image", "image_embeds", "image_pil", "image_url"),
        *("input_audio", "input_file", "input_image", "input_video", "video", "video_url"),
    }
)
"""Types of a message's parts, and the keys that hold them, whose tokens are not those of their text."""

_IN_BASE64: Final = {
    "image": ("data",),
    "image_url": ("url", "image_url"),
    "input_image": ("image_url",),
    "input_audio": ("data",),
    "audio_url": ("url", "audio_url"),
    "video_url": ("url", "video_url"),
}
"""Where parts may hold data themselves, by their type."""
_BARE: Final = frozenset({"image", "input_audio"})
"""Those whose data is not in a URL."""


class _Message(msgspec.Struct, gc=False):
    content: Any = None
    output: Any = None


_messages = msgspec.json.Decoder(list[_Message])
_items = msgspec.json.Decoder(list[msgspec.Raw])


def is_free(operation: str) -> bool:
    """Whether an operation uses no tokens of any model."""
    return operation not in GENERATING and (operation in _FREE or operation.endswith(("/render", "/derender")))


def bound(operation: str, body: bytes, wanted: Wanted, reckoning: Reckoning) -> Bound:
    """What a call may use at most. Raises FIELD_INVALID where a number that bounds it is none."""
    fields = wanted.fields
    if is_free(operation):
        return NOTHING
    # Text in UTF-16 may have half as many bytes again in UTF-8, in which tokens are cut.
    size = len(body) if wanted.plain or b"\x00" not in body else len(body) * 3 // 2
    pointers, held = _pointers(fields) if not wanted.plain or may_point(body) else (_earlier(fields), 0)
    prompt = size - held + reckoning.overhead + pointers * reckoning.unseen
    if operation in _SILENT:
        return Bound(prompt, 0, 0, (), given=True)
    known = GENERATING.get(operation)
    keys = known.keys if known else ()
    asked = [number for key in keys if (number := _whole(fields, key)) is not None]
    default = known.default if known else 0
    answer = max(asked) if asked else min(default or reckoning.answer, reckoning.answer)
    texts = max(_whole(fields, "n") or 1, _whole(fields, "best_of") or 1) * _prompts(operation, fields)
    return Bound(prompt, max(answer, 1), texts, keys, given=bool(asked))


def fitting(found: Bound, room: int) -> int:
    """Tokens that each text of the answer may have where there is room for so many in all; 0 for none."""
    return max(0, (room - found.prompt) // found.texts) if found.texts else 0


def edits_for(found: Bound, fields: Fields, answer: int) -> tuple[Edit, ...]:
    """What must be spliced into the body for its answers to be no longer than that."""
    if not found.keys or (found.given and answer >= found.answer):
        return ()
    values = [(key, getattr(fields, key)) for key in found.keys]
    given = [(key, value) for key, value in values if value is not UNSET and value is not None]
    if given:
        return tuple(Edit(key, str(answer), there=True) for key, value in given if value > answer)
    key, value = values[0]
    return (Edit(key, str(answer), there=value is not UNSET),)


def _whole(fields: Fields, key: str) -> int | None:
    """A number that bounds a call; None if the body has none. vLLM would take `"5"` and 5.0 as well: not to know what
    it makes of a value is not to know the bound.
    """
    value = getattr(fields, key)
    if value is UNSET or value is None:
        return None
    if type(value) is not int or value < 0:
        message = f"'{key}' must be a whole number, as it counts against your limits."
        raise ServiceError(Reason.FIELD_INVALID, message, param=f"body.{key}")
    return min(value, MOST_TOKENS)


def _prompts(operation: str, fields: Fields) -> int:
    """How many prompts a body holds: a completion's may be texts, or lists of tokens; a batch of chats is a list of
    lists.
    """
    if operation == "/v1/completions":
        return max(1, _entries(fields.prompt) + _entries(fields.prompt_embeds))
    if operation == "/v1/chat/completions/batch":
        return max(1, _entries(fields.messages))
    return 1


def _entries(raw: msgspec.Raw) -> int:
    """How many texts or lists a value is; a list of numbers is one."""
    text = bytes(raw)
    if not text.startswith(b"["):
        return 0 if text in (b"", b"null") else 1
    # A number may stand in a list of lists as little as a list in one of numbers: the first tells.
    if text[1:].lstrip()[:1] not in (b'"', b"[", b"{"):
        return 1
    return len(_items.decode(text))


def _pointers(fields: Fields) -> tuple[int, int]:
    """How many things a body points to, and the bytes of those that it holds itself, as data in base64."""
    count, size = _earlier(fields), 0
    for raw in (fields.messages, fields.input):
        if _is_list(raw):
            parts = list(_parts(raw))
            count += len(parts)
            size += sum(map(_held, parts))
    return count, size


def may_point(body: bytes) -> bool:
    """Whether a plain body may hold pointers, each of which has one of these words in it. To look through all messages
    costs as much as all else that a bound does; a loop would cost more than the words.
    """
    return b"image" in body or b"audio" in body or b"video" in body or b"file" in body or b"document" in body


def _earlier(fields: Fields) -> int:
    """How many earlier responses a body goes on from."""
    return sum(value is not UNSET and value is not None for value in (fields.previous_response_id, fields.conversation))


def _is_list(raw: msgspec.Raw) -> bool:
    return bytes(memoryview(raw)[:1]) == b"["


def _parts(raw: msgspec.Raw) -> Iterator[dict[str, Any]]:
    """The parts of messages that are no text. Content that is one string is not looked into."""
    try:
        messages = _messages.decode(raw)
        values = [held for one in messages for held in (one.content, one.output) if isinstance(held, list)]
    except msgspec.ValidationError:  # a batch of chats, or what vLLM refuses
        values = [msgspec.json.decode(raw)]
    for value in values:
        yield from _pointing(value)


def _pointing(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for item in value:
            yield from _pointing(item)
    elif isinstance(value, dict):
        if value.get("type") in _POINTERS or not _POINTERS.isdisjoint(value):
            yield value
        else:
            for item in value.values():
                if isinstance(item, list | dict):
                    yield from _pointing(item)


def _held(part: dict[str, Any]) -> int:
    """The bytes of an image or a sound in base64, which are no text. Those of a document may be."""
    kind = part.get("type")
    if kind not in _IN_BASE64:
        return 0
    holders = [part, *(holder for key in (kind, "source") if isinstance(holder := part.get(key), dict))]
    texts = [holder.get(key) for holder in holders for key in _IN_BASE64[kind]]
    return sum(len(text) for text in texts if isinstance(text, str) and (text[:5] == "data:" or kind in _BARE))
