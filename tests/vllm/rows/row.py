"""A row of the fidelity table.

Everything asked for is deterministic (temperature 0, or a seed), so that two answers to one row are the same bytes.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.vllm.compare import same
from tests.vllm.exchange import Answer

CHAT_MODEL = "tiny-chat"
EMBED_MODEL = "tiny-embed"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Row:
    """A request, and how the answers of vLLM and of the mesh to it are compared."""

    name: str
    path: str
    body: bytes | None = None
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    compare: Callable[[Answer, Answer], None] = same
    model: str = CHAT_MODEL


def encode(fields: Mapping[str, Any]) -> bytes:
    """Compact JSON with its keys in the order given, and text as itself, not escaped."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def unstreamed_and_streamed(name: str, path: str, fields: Mapping[str, Any]) -> Iterator[Row]:
    yield Row(name, path, encode(fields))
    yield Row(f"{name}, streamed", path, encode({**fields, "stream": True}))
