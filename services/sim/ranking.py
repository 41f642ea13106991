"""How well texts fit, by the angle between their vectors, in vLLM's JSON (vLLM 0.32). Pure."""

from __future__ import annotations

import msgspec

from services.sim.answers import utf8
from services.sim.bodies import Score
from services.sim.config import SimConfig
from services.sim.embeddings import vector
from services.sim.errors import api_error
from services.sim.words import count_tokens

Identity = tuple[str, str, int]
"""The model, the answer's id and the time of its creation."""


def score_pairs(body: Score) -> list[tuple[bytes, bytes]]:
    """The pairs that are scored: one text goes with each of many. Raises Refusal for lists that do not fit."""
    first, second = ([text] if isinstance(text, str) else text for text in (body.text_1, body.text_2))
    if not first or not second:
        raise api_error(400, "At least one text_pair element must be given")
    if len(first) == 1:
        first = first * len(second)
    if len(first) != len(second):
        raise api_error(400, "Input lengths must be either 1:1, 1:N or N:N")
    return [(utf8(a), utf8(b)) for a, b in zip(first, second, strict=True)]


def score_json(pairs: list[tuple[bytes, bytes]], config: SimConfig, identity: Identity) -> bytes:
    """The body of an answer with a score for each pair."""
    model, answer_id, created = identity
    scores = [{"index": i, "object": "score", "score": _fit(*pair, config)} for i, pair in enumerate(pairs)]
    usage = _usage([text for pair in pairs for text in pair])
    answer = {"id": answer_id, "object": "list", "created": created, "model": model, "data": scores, "usage": usage}
    return msgspec.json.encode(answer)


def rerank_json(texts: list[bytes], top_n: int, config: SimConfig, identity: Identity) -> bytes:
    """The body of an answer that orders the texts after the first by how well they fit it."""
    model, answer_id, _ = identity
    query, *documents = texts
    results = [
        {
            "index": i,
            "document": {"text": text.decode(), "multi_modal": None},
            "relevance_score": _fit(query, text, config),
        }
        for i, text in enumerate(documents)
    ]
    results.sort(key=lambda result: -result["relevance_score"])  # type: ignore[operator]
    tokens = sum(map(count_tokens, texts))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    answer = {"id": answer_id, "model": model, "usage": usage, "results": results[: top_n or None]}
    return msgspec.json.encode(answer)


def _fit(first: bytes, second: bytes, config: SimConfig) -> float:
    one, other = (vector(text, config.embedding_dimensions, config.seed) for text in (first, second))
    return sum(a * b for a, b in zip(one, other, strict=True))


def _usage(texts: list[bytes]) -> dict[str, int | None]:
    tokens = sum(map(count_tokens, texts))
    return {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }
