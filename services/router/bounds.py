"""How many tokens a call may use at most, reckoned before it is made; pure.

A token stands for at least one byte of text, so the bytes of the body bound its prompt; what the body only points to
(an image by its URL, an earlier response) is reckoned at a set number. `max_tokens` bounds the answer, once for each
text that is asked for. Where the caller gives none, a cap is spliced into the body, so that the bound is a true one.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET

from services.core.errors import Reason, ServiceError
from services.router.body import Fields, Wanted
from services.router.pointers import decoded, held, may_point, pointing
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


_BATCH: Final = "/v1/chat/completions/batch"

MOST_TOKENS: Final = 1 << 50
"""What any call is reckoned at most: it fits into every store's numbers."""

GENERATING: Final = {
    "/v1/chat/completions": _Operation(("max_tokens", "max_completion_tokens")),
    _BATCH: _Operation(("max_tokens", "max_completion_tokens")),
    # OpenAI's default, and vLLM's: a cap above it would make answers longer. For null it is none.
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

_QUERIES: Final = ("query", "queries", "text_1", "data_1")
_TEXTS: Final = ("documents", "items", "text_2", "data_2")
"""Keys of what is scored: each of the texts is a prompt together with the query."""


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
    pointers, data = _pointers(fields) if not wanted.plain or may_point(body) else (_earlier(fields), 0)
    prompt = size - data + reckoning.overhead + pointers * reckoning.unseen
    if operation in _SILENT:
        return Bound(prompt + _more_of_silent(body, reckoning), 0, 0, (), given=True)
    known = GENERATING.get(operation)
    keys = known.keys if known else ()
    asked = [number for key in keys if (number := _whole(fields, key)) is not None and _bounds(keys, key, number)]
    default = known.default if known and fields.max_tokens is UNSET else 0
    answer = max(asked) if asked else min(default or reckoning.answer, reckoning.answer)
    prompts = _prompts(operation, fields)
    if operation == _BATCH:  # each has its template
        prompt += reckoning.overhead * (prompts - 1)
    texts = max(_whole(fields, "n") or 1, _whole(fields, "best_of") or 1) * prompts
    return Bound(prompt, max(answer, 1), texts, keys, given=bool(asked))


def fitting(found: Bound, room: int) -> int:
    """Tokens that each text of the answer may have where there is room for so many in all; 0 for none."""
    return max(0, (room - found.prompt) // found.texts) if found.texts else 0


def edits_for(found: Bound, fields: Fields, answer: int) -> tuple[Edit, ...]:
    """What must be spliced into the body for its answers to be no longer than that."""
    if not found.keys or (found.given and answer >= found.answer):
        return ()
    values = [(key, getattr(fields, key)) for key in found.keys]
    given = [(key, value) for key, value in values if type(value) is int and _bounds(found.keys, key, value)]
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


def _bounds(keys: tuple[str, ...], key: str, number: int) -> bool:
    """Whether it bounds an answer. Servers that take 0 for no number, as vLLM did, go on to the first of the keys."""
    return number > 0 or key == keys[0]


def _prompts(operation: str, fields: Fields) -> int:
    """How many prompts a body holds: a completion's may be texts, or lists of tokens; a batch of chats is a list of
    lists.
    """
    if operation == "/v1/completions":
        return max(1, _entries(fields.prompt) + _entries(fields.prompt_embeds))
    if operation == _BATCH:
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
    return len(decoded(text))


def _more_of_silent(body: bytes, reckoning: Reckoning) -> int:
    """What operations that generate nothing may use beyond the bytes and the messages of their bodies: pointers stand
    anywhere in them, and a query is computed with each of the texts that it is compared with.
    """
    value = decoded(body)
    outside = [value[key] for key in value if key not in ("messages", "input")]
    images = value.get("images")
    pointers = len(pointing(outside)) + (len(images) if isinstance(images, list) else 0)
    pairs = max((_several(value[key]) for key in _TEXTS if key in value), default=1)
    queries = [value[key] for key in _QUERIES if key in value]
    again = sum(
        len(json.dumps(query)) + len(pointing(query)) * reckoning.unseen
        for query in queries
        if not (isinstance(query, list) and _several(query) > 1)  # then each has its own text
    )
    return pointers * reckoning.unseen + (pairs - 1) * (again + reckoning.overhead)


def _several(value: Any) -> int:
    """How many texts a value is that is decoded; see `_entries`."""
    if isinstance(value, dict):
        value = value.get("content")
    return len(value) if isinstance(value, list) and value and isinstance(value[0], str | list | dict) else 1


def _pointers(fields: Fields) -> tuple[int, int]:
    """How many things a body points to, and the bytes of those that it holds itself, as data in base64."""
    count, size = _earlier(fields), 0
    for raw in (fields.messages, fields.input):
        if _is_list(raw):
            value = decoded(raw)
            count += len(pointing(value))
            size += held(value)
    return count, size


def _earlier(fields: Fields) -> int:
    """How many earlier responses a body goes on from."""
    return sum(value is not UNSET and value is not None for value in (fields.previous_response_id, fields.conversation))


def _is_list(raw: msgspec.Raw) -> bool:
    return bytes(memoryview(raw)[:1]) == b"["
