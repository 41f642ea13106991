"""A typed answer's pieces as events of OpenAI's JSON: the way back of `streams.py`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from weft.inference.v1 import chat_pb2

from services.typed.messages import shape_of
from services.typed.raw import members
from services.typed.shape import Tree
from services.typed.streams import DONE


def stream_events(pieces: Iterable[Any]) -> Iterator[bytes]:
    """A typed answer's pieces as events, from which `StreamReader` makes the same answer."""
    head: Tree = {}
    for piece in pieces:
        if piece.progress:
            yield b": " + b" ".join(piece.progress.encode().split()) + b"\n\n"
        if piece.HasField("start"):
            constant = "chat.completion.chunk" if isinstance(piece, chat_pb2.StreamChatResponse) else "text_completion"
            begun = shape_of(piece.start.DESCRIPTOR).write(piece.start, True)
            yield _data({"choices": [], "object": constant, **begun})
            head = {key: begun[key] for key in ("id", "created", "model") if key in begun}
        for delta in piece.deltas:
            yield _data({**head, "choices": [_choice(delta)]})
        if piece.extra_json:
            yield _data({"choices": [], **head, **(members(piece.extra_json.encode()) or {})})
        if piece.HasField("end"):
            for one in piece.end.choices:
                end = shape_of(one.DESCRIPTOR).write(one, True)
                yield _data({**head, "choices": [{**_empty(piece), **end}]})
            if piece.end.HasField("usage"):
                usage = shape_of(piece.end.usage.DESCRIPTOR).write(piece.end.usage, True)
                yield _data({**head, "choices": [], "usage": usage})
            yield b"data: " + DONE + b"\n\n"


def _choice(delta: Any) -> Tree:
    tree = shape_of(delta.DESCRIPTOR).write(delta, True)
    return {**_empty(delta), **tree}


def _empty(of: Any) -> Tree:
    """What a choice has if it says nothing."""
    return {"delta": {}} if of.DESCRIPTOR.file.name.endswith("chat.proto") else {"text": ""}


def _data(value: Tree) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
