"""What does not stand in JSON as a member of the field's name: contents of messages and their parts, choices of tools,
prompts, vectors. Pure.
"""

from __future__ import annotations

import sys
from array import array
from base64 import b64decode
from binascii import Error
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
from google.protobuf.descriptor import Descriptor
from msgspec import Raw
from weft.inference.v1 import chat_pb2, completions_pb2

from services.typed.raw import FieldError, elements, json_text, members, object_text, unique_members
from services.typed.shape import EXTRA, Fields, Reader, Rules, Shape, Tree, add_extra
from services.typed.values import NOT, TEXT, Value, at, base64_bytes, base64_text

# Contents


def read_content(raw: Raw, answer: bool) -> Any:
    """A message's content: text, or parts."""
    text = TEXT.read(raw)
    if text is not NOT:
        return {"text": text}
    found = elements(raw)
    if found is None:
        return NOT
    parts = [_read_part(one) for one in found]
    return NOT if NOT in parts else {"parts": {"parts": parts}}


def _write_parts(parts: chat_pb2.ContentParts) -> list[Any]:
    return [at(f"parts[{i}]", _write_part, one) for i, one in enumerate(parts.parts)]


def _write_part(part: chat_pb2.ContentPart) -> Any:
    kind = part.WhichOneof("part")
    if kind is None:
        raise FieldError("", "says nothing; set 'text', 'image_url' or another of its fields")
    if kind == "other_json":
        if part.extra_json:
            raise FieldError(EXTRA, "does not stand beside 'other_json'; write it into that")
        return at(kind, json_text, part.other_json)
    value: Any = part.text
    if kind == "image_url":
        value = _write_image(part.image_url)
    elif kind == "input_audio":
        value = {"data": base64_text(part.input_audio.data), "format": part.input_audio.format}
    elif kind != "text":
        value = {"url": getattr(part, kind).url}
    tree: Tree = {"type": kind, kind: value}
    if part.extra_json:
        add_extra(tree, part.extra_json)
    return tree


def _write_image(image: chat_pb2.ImageUrl) -> Tree:
    tree: Tree = {}
    if image.HasField("inline"):
        inline = image.inline
        if not inline.media_type:
            raise FieldError("image_url.inline.media_type", "is missing; 'image/png', for instance")
        tree["url"] = f"data:{inline.media_type};base64,{base64_text(inline.data)}"
    elif image.HasField("url"):
        tree["url"] = image.url
    else:
        raise FieldError("image_url", "has no image; set 'url' or 'inline'")
    if image.HasField("detail"):
        tree["detail"] = image.detail
    return tree


def _read_part(raw: Raw) -> Any:
    """An object of any kind; those that fit no field stay as they stand."""
    try:
        text = bytes(raw).decode()
    except UnicodeDecodeError:
        return NOT
    if not text.startswith("{"):
        return NOT
    try:
        found = unique_members(text)
    except FieldError:
        return {"other_json": text}
    kind = TEXT.read(found.pop("type", raw))
    read = _PARTS.get(kind)
    value = NOT if read is None or kind not in found else read(found.pop(kind))
    if value is NOT:
        return {"other_json": text}
    return {kind: value, EXTRA: object_text(found)} if found else {kind: value}


def _read_texts(raw: Raw, needed: frozenset[str], possible: frozenset[str]) -> Any:
    """An object that has texts alone, under these keys."""
    try:
        found = unique_members(bytes(raw).decode())
    except (FieldError, UnicodeDecodeError):
        return NOT
    if not needed <= found.keys() <= possible:
        return NOT
    texts = {key: TEXT.read(one) for key, one in found.items()}
    return NOT if NOT in texts.values() else texts


def _read_image(raw: Raw) -> Any:
    return _read_texts(raw, frozenset({"url"}), frozenset({"url", "detail"}))


def _read_media(raw: Raw) -> Any:
    return _read_texts(raw, frozenset({"url"}), frozenset({"url"}))


def _read_audio(raw: Raw) -> Any:
    keys = frozenset({"data", "format"})
    found = _read_texts(raw, keys, keys)
    if found is NOT or (data := base64_bytes(found["data"])) is NOT:
        return NOT
    return {"data": data, "format": found["format"]}


_PARTS: Final[Mapping[Any, Callable[[Raw], Any]]] = {
    "text": TEXT.read,
    "image_url": _read_image,
    "input_audio": _read_audio,
    "audio_url": _read_media,
    "video_url": _read_media,
}

# Choices of tools


def _write_choice(choice: chat_pb2.ToolChoice) -> Any:
    kind = choice.WhichOneof("choice")
    if kind is None:
        raise FieldError("", "chooses nothing; set 'mode', 'function' or 'other_json', or leave it out")
    if kind == "other_json":
        return at(kind, json_text, choice.other_json)
    return choice.mode if kind == "mode" else {"type": "function", "function": {"name": choice.function}}


def _read_choice(raw: Raw) -> Any:
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


# Prompts

_tokens = msgspec.json.Decoder(list[int]).decode


def _write_prompts(prompts: Iterable[completions_pb2.Prompt]) -> Any:
    written: list[Any] = []
    for i, prompt in enumerate(prompts):
        kind = prompt.WhichOneof("prompt")
        if kind is None or (kind == "tokens" and not prompt.tokens.ids):
            raise FieldError(f"[{i}]", "says nothing; set 'text' or 'tokens'")
        written.append(prompt.text if kind == "text" else list(prompt.tokens.ids))
        if type(written[i]) is not type(written[0]):
            raise FieldError(f"[{i}]", "is of another kind than the first; send texts alone, or tokens alone")
    return written[0] if len(written) == 1 else written


def _read_prompts(raw: Raw) -> Any:
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


# Vectors

_floats = msgspec.json.Decoder(list[float]).decode
_LARGEST: Final = 3.4028234663852886e38
"""That a float of 32 bits holds."""


def _read_vector(raw: Raw) -> Any:
    """Numbers, or base64 of floats of 32 bits, of which the first byte is the lowest."""
    text = TEXT.read(raw)
    vector = array("f")
    try:
        if text is not NOT:
            vector.frombytes(b64decode(text, validate=True))
            if sys.byteorder == "big":
                vector.byteswap()
        else:
            numbers = _floats(raw)
            if any(abs(number) > _LARGEST for number in numbers):
                return NOT
            vector.extend(numbers)
    except (Error, ValueError, msgspec.DecodeError):
        return NOT
    return vector


# Pieces of streams


class Nested(Shape):
    """A message of which some fields are the members of an object inside its own: `delta`, `function`. What else that
    object has stands in `extra_json` under its key.
    """

    def __init__(
        self, kind: Descriptor, rules: Rules, shape_of: Callable[[Descriptor], Any], under: str, names: frozenset[str]
    ) -> None:
        super().__init__(kind, rules, shape_of)
        self._under = under
        self._inner: dict[str, Reader] = {key: self.readers.pop(key) for key in names}

    def write(self, message: Any, answer: bool) -> Tree:
        """See `Shape.write`."""
        tree = super().write(message, answer)
        inner: Tree = {key: tree.pop(key) for key in self._inner if key in tree}
        extra = tree.pop(self._under, None)
        if extra is not None and (found := members(extra)) is not None:
            inner.update(found)
        elif extra is not None:
            tree[self._under] = extra  # which is no object, so that no field was read from it
            return tree
        if inner or extra is not None:
            tree[self._under] = inner
        return tree

    def read(self, found: Mapping[str, Raw], answer: bool) -> Any:
        """See `Shape.read`."""
        nested = found.get(self._under)
        inner = None if nested is None else members(nested)
        outer = {key: raw for key, raw in found.items() if key != self._under or inner is None}
        fields: Fields = {}
        extra = self.take(self.readers, outer, answer, fields)
        if inner is not None and (rest := self.take(self._inner, inner, answer, fields)):
            extra[self._under] = Raw(object_text(rest).encode())
        if extra:
            fields[EXTRA] = object_text(extra)
        return fields


# What of all this belongs to which message

_CHOICE: Final = Value(_write_choice, _read_choice)
_PROMPTS: Final = Value(_write_prompts, _read_prompts)
_VECTOR: Final = Value(list, _read_vector)


def _is(kind: str) -> dict[str, Raw]:
    return {"object": Raw(f'"{kind}"'.encode())}


_SAMPLED: Final = frozenset({"sampling"})

RULES: Final[Mapping[str, Rules]] = {
    "ChatRequest": Rules(flat=_SAMPLED, values={"tool_choice": _CHOICE}),
    "ChatMessage": Rules(
        keys={"text": "content", "parts": "content"},
        values={"parts": Value(_write_parts, lambda raw: NOT)},
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
