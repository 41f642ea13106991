"""Vectors of texts: of length one, the same for the same text, different for different ones. Pure."""

from __future__ import annotations

import base64
import hashlib
import math
import struct

import msgspec

from services.sim.answers import utf8
from services.sim.bodies import Embedding
from services.sim.errors import invalid_field
from services.sim.words import count_tokens


def embedding_inputs(body: Embedding) -> list[bytes]:
    """The texts to embed; token ids count as a text of their own. Raises Refusal for an unknown encoding."""
    if body.encoding_format not in (None, "float", "base64"):
        message = "Input should be 'float' or 'base64'"
        raise invalid_field("body.encoding_format", "literal_error", message, body.encoding_format)
    one = isinstance(body.input, str) or (body.input and isinstance(body.input[0], int))
    items = [body.input] if one else body.input
    return [utf8(item) if isinstance(item, str) else msgspec.json.encode(item) for item in items]


def vector(text: bytes, dimensions: int, seed: int) -> list[float]:
    """The vector of a text: `dimensions` numbers that a 32-bit float holds exactly, of Euclidean length one."""
    key = (seed % 2**64).to_bytes(8)
    digest = hashlib.shake_128(key + text).digest(2 * dimensions)
    raw = struct.unpack(f"<{dimensions}h", digest)
    length = math.sqrt(sum(x * x for x in raw)) or 1.0
    return list(struct.unpack(f"<{dimensions}f", struct.pack(f"<{dimensions}f", *(x / length for x in raw))))


def embedding_json(
    inputs: list[bytes], encoding: str | None, dimensions: int, seed: int, identity: tuple[str, str, int]
) -> bytes:
    """The body of an embeddings answer. `identity` is the model, the answer's id and the time of its creation."""
    model, answer_id, created = identity
    vectors = [vector(text, dimensions, seed) for text in inputs]
    shown: list[list[float] | str] = list(vectors)
    if encoding == "base64":
        shown = [base64.b64encode(struct.pack(f"<{dimensions}f", *each)).decode() for each in vectors]
    tokens = sum(map(count_tokens, inputs))
    answer = {
        "id": answer_id,
        "object": "list",
        "created": created,
        "model": model,
        "data": [{"index": i, "object": "embedding", "embedding": each} for i, each in enumerate(shown)],
        "usage": {
            "prompt_tokens": tokens,
            "total_tokens": tokens,
            "completion_tokens": 0,
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
        },
    }
    return msgspec.json.encode(answer)
