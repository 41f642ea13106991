"""What does not stand in JSON as a member of the field's name, by the messages that have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Raw

from services.typed.contents import read_content, write_parts
from services.typed.inputs import read_choice, read_prompts, write_choice, write_prompts
from services.typed.shape import Rules
from services.typed.values import NOT, Value
from services.typed.vectors import read_vector

_CHOICE: Final = Value(write_choice, read_choice)
_PROMPTS: Final = Value(write_prompts, read_prompts)
_VECTOR: Final = Value(list, read_vector)


def _is(kind: str) -> dict[str, Raw]:
    return {"object": Raw(f'"{kind}"'.encode())}


_SAMPLED: Final = frozenset({"sampling"})

RULES: Final[Mapping[str, Rules]] = {
    "ChatRequest": Rules(flat=_SAMPLED, values={"tool_choice": _CHOICE}),
    "ChatMessage": Rules(
        keys={"text": "content", "parts": "content"},
        values={"parts": Value(write_parts, lambda raw: NOT)},
        reads={"content": read_content},
    ),
    "ChatResponse": Rules(constants=_is("chat.completion")),
    "CompleteRequest": Rules(flat=_SAMPLED, keys={"prompts": "prompt"}, values={"prompts": _PROMPTS}),
    "CompleteResponse": Rules(constants=_is("text_completion")),
    "EmbedRequest": Rules(keys={"inputs": "input"}, values={"inputs": _PROMPTS}),
    "EmbedResponse": Rules(keys={"embeddings": "data"}, constants=_is("list")),
    "Embedding": Rules(keys={"values": "embedding"}, values={"values": _VECTOR}, constants=_is("embedding")),
    "ScoreResponse": Rules(keys={"scores": "data"}, constants=_is("list")),
    "ScoredPair": Rules(constants=_is("score")),
    "TokenizeRequest": Rules(flat=frozenset({"chat"})),
}

NESTED: Final[Mapping[str, tuple[str, frozenset[str]]]] = {
    "ChatDelta": ("delta", frozenset({"role", "content", "reasoning", "tool_calls"})),
    "ToolCallDelta": ("function", frozenset({"name", "arguments"})),
}
