"""Embeddings, scores and the other routes of a pooling model."""

from collections.abc import Iterator
from typing import Any

from tests.vllm.rows.row import EMBED_MODEL, Row, encode

EMBEDDINGS = "/v1/embeddings"
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "embeddings, float": (EMBEDDINGS, {"input": "warp", "encoding_format": "float"}),
    "embeddings, base64": (EMBEDDINGS, {"input": "warp", "encoding_format": "base64"}),
    "embeddings, several": (EMBEDDINGS, {"input": ["warp", "weft 👋", "é"]}),
    "embeddings, token ids": (EMBEDDINGS, {"input": [300, 301]}),
    "embeddings, several token ids": (EMBEDDINGS, {"input": [[300], [301, 302]]}),
    "embeddings, large": (EMBEDDINGS, {"input": ["warp and weft " * 20] * 40}),
    "embeddings, dimensions refused": (EMBEDDINGS, {"input": "a", "dimensions": 8}),
    "embeddings, cut": (EMBEDDINGS, {"input": "warp " * 900, "truncate_prompt_tokens": 16}),
    "embeddings, too long": (EMBEDDINGS, {"input": "warp " * 900}),
    "embeddings, wrong format": (EMBEDDINGS, {"input": "a", "encoding_format": "hex"}),
    "embeddings, empty input": (EMBEDDINGS, {"input": []}),
    "embeddings, input missing": (EMBEDDINGS, {}),
    "embeddings, wrong type": (EMBEDDINGS, {"input": {"a": 1}}),
    "embeddings, raw bytes": (EMBEDDINGS, {"input": "a", "encoding_format": "bytes"}),
    "embeddings, unknown fields": (EMBEDDINGS, {"input": "a", "user": "u", "x_new_field": [None]}),
    "pooling": ("/pooling", {"input": "warp"}),
    "pooling, base64": ("/pooling", {"input": "warp", "encoding_format": "base64"}),
    "score": ("/score", {"text_1": "warp", "text_2": "weft"}),
    "score, one to many": ("/v1/score", {"text_1": "warp", "text_2": ["weft", "loom"]}),
    "score, missing": ("/v1/score", {"text_1": "warp"}),
    "rerank": ("/rerank", {"query": "warp", "documents": ["weft", "loom", "yarn"]}),
    "rerank, v1": ("/v1/rerank", {"query": "warp", "documents": ["weft", "loom", "yarn"], "top_n": 2}),
    "rerank, v2": ("/v2/rerank", {"query": "warp", "documents": ["weft"]}),
    "rerank, missing": ("/v1/rerank", {"query": "warp"}),
    "embed, v2": ("/v2/embed", {"texts": ["warp"], "embedding_types": ["float"]}),
    "tokenize, pooling model": ("/tokenize", {"prompt": "warp"}),
}


def rows() -> Iterator[Row]:
    for name, (path, fields) in ASKED.items():
        yield Row(name, path, encode({"model": EMBED_MODEL, **fields}), model=EMBED_MODEL)
