"""The content of a message: text, or parts of several kinds. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Raw
from weft.inference.v1 import chat_pb2

from services.typed.raw import FieldError, elements, json_text, object_text, unique_members
from services.typed.shape import EXTRA, Tree, add_extra
from services.typed.values import NOT, TEXT, at, base64_bytes, base64_text


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


def write_parts(parts: chat_pb2.ContentParts) -> list[Any]:
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
