"""Answers of `infer`: whatever the model server gives, as it gives it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from weft.inference.v1.inference_pb2 import InferResponse


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer; an error of the model server's own is one too, by its `status`. Headers' names are in lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def json(self) -> Any:
        """The body's JSON. Raises ValueError if it is none."""
        return json.loads(self.body)


def gather_raw(pieces: Iterable[InferResponse]) -> RawAnswer:
    """The answer of which these are the pieces."""
    status = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: list[bytes] = []
    for piece in pieces:
        if piece.HasField("head"):
            status = piece.head.status
            headers = tuple((header.name, header.value) for header in piece.head.headers)
        body.append(piece.text.encode() or piece.data)
    return RawAnswer(status, headers, b"".join(body))
