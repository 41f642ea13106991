"""What a request gives and chooses otherwise than by members of its fields' names: prompts, choices of tools. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Raw
from weft.inference.v1 import chat_pb2, completions_pb2

from services.typed.raw import FieldError, elements, json_text, unique_members
from services.typed.values import NOT, TEXT, at


def write_choice(choice: chat_pb2.ToolChoice) -> Any:
    kind = choice.WhichOneof("choice")
    if kind is None:
        raise FieldError("", "chooses nothing; set 'mode', 'function' or 'other_json', or leave it out")
    if kind == "other_json":
        return at(kind, json_text, choice.other_json)
    return choice.mode if kind == "mode" else {"type": "function", "function": {"name": choice.function}}


def read_choice(raw: Raw) -> Any:
    if (mode := TEXT.read(raw)) is not NOT:
        return {"mode": mode}
    try:
        text = bytes(raw).decode()
    except UnicodeDecodeError:
        return NOT
    try:
        found = unique_members(text)
        named = unique_members(bytes(found["function"]).decode())
        if found.keys() == {"type", "function"} and named.keys() == {"name"} and TEXT.read(found["type"]) == "function":
            name = TEXT.read(named["name"])
            return {"other_json": text} if name is NOT else {"function": name}
    except (FieldError, KeyError):
        pass
    return {"other_json": text}


_tokens = msgspec.json.Decoder(list[int]).decode


def write_prompts(prompts: Iterable[completions_pb2.Prompt]) -> Any:
    written: list[Any] = []
    for i, prompt in enumerate(prompts):
        kind = prompt.WhichOneof("prompt")
        if kind is None or (kind == "tokens" and not prompt.tokens.ids):
            raise FieldError(f"[{i}]", "says nothing; set 'text' or 'tokens'")
        written.append(prompt.text if kind == "text" else list(prompt.tokens.ids))
        if type(written[i]) is not type(written[0]):
            raise FieldError(f"[{i}]", "is of another kind than the first; send texts alone, or tokens alone")
    return written[0] if len(written) == 1 else written


def read_prompts(raw: Raw) -> Any:
    one = _read_prompt(raw)
    if one is not NOT:
        return [one]
    found = elements(raw)
    prompts = [_read_prompt(item) for item in found or ()]
    if len(prompts) < 2 or NOT in prompts or any(prompt.keys() != prompts[0].keys() for prompt in prompts):
        return NOT
    return prompts


def _read_prompt(raw: Raw) -> Any:
    if (text := TEXT.read(raw)) is not NOT:
        return {"text": text}
    try:
        ids = _tokens(raw)
    except msgspec.DecodeError:
        return NOT
    return {"tokens": {"ids": ids}} if ids and all(-(1 << 63) <= one < 1 << 63 for one in ids) else NOT
