"""What a body points to without holding its text, as an image by its URL; pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from services.core.errors import Reason, ServiceError
from services.router.splice import encoding_of

_POINTERS: Final = frozenset(
    {
        *("audio_embeds", "audio_url", "document", "file", "image", "image_embeds", "image_pil", "image_url"),
        *("input_audio", "input_file", "input_image", "input_video", "video", "video_url"),
    }
)
"""Types of a message's parts, and the keys that hold them, whose tokens are not those of their text."""

_IN_BASE64: Final = {
    "image": ("data",),
    "image_url": ("url", "image_url"),
    "input_image": ("image_url",),
    "input_audio": ("data",),
    "audio_url": ("url", "audio_url"),
    "video_url": ("url", "video_url"),
}
"""Where parts may hold data themselves, by their type."""
_BARE: Final = frozenset({"image", "input_audio"})
"""Those whose data is not in a URL."""


def may_point(body: bytes) -> bool:
    """Whether a plain body may hold pointers, each of which has one of these words in it. To look through all messages
    costs as much as all else that a bound does; a loop would cost more than the words.
    """
    return b"image" in body or b"audio" in body or b"video" in body or b"file" in body or b"document" in body


def decoded(text: bytes | msgspec.Raw) -> Any:
    """A piece of the body. What the fast decoder refuses (NaN, half of a surrogate pair) vLLM's takes."""
    try:
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            text = bytes(text)
            return _patient.decode(text.decode(encoding_of(text), "replace").removeprefix("\ufeff"))
    except RecursionError as error:
        raise ServiceError(Reason.BODY_TOO_DEEP) from error


_patient = json.JSONDecoder(parse_int=float)  # Python reads no integer of more than 4300 digits.


def pointing(value: Any) -> list[dict[str, Any]]:
    """What is no text, wherever it stands: within another such thing, too."""
    found: list[dict[str, Any]] = []
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, list):
            left += one
        elif isinstance(one, dict):
            kind = one.get("type")
            if (isinstance(kind, str) and kind in _POINTERS) or not _POINTERS.isdisjoint(one):
                found.append(one)
            left += one.values()
    return found


def held(messages: Any) -> int:
    """The bytes of images and sounds in base64 that are parts of messages."""
    return sum(map(_held, _parts(messages)))


def _parts(messages: Any) -> Iterator[dict[str, Any]]:
    """The parts of messages, and of the results of tools among them. What merely looks like a part elsewhere, as in a
    tool's arguments, is text to a model.
    """
    for one in _list(messages):
        if isinstance(one, list):  # of a batch
            yield from _parts(one)
        elif isinstance(one, dict):
            for held in (one.get("content"), one.get("output")):
                for part in _list(held):
                    if isinstance(part, dict):
                        yield part
                        yield from (inner for inner in _list(part.get("content")) if isinstance(inner, dict))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _held(part: dict[str, Any]) -> int:
    """The bytes of an image or a sound in base64, which are no text. Those of a document may be."""
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _IN_BASE64:
        return 0
    holders = [part, *(holder for key in (kind, "source") if isinstance(holder := part.get(key), dict))]
    texts = [holder.get(key) for holder in holders for key in _IN_BASE64[kind]]
    return sum(len(text) for text in texts if isinstance(text, str) and (text[:5] == "data:" or kind in _BARE))
