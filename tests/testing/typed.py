"""JSON and messages as hypothesis makes them up, for the typed API, and how two of them are compared."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st
from weft.inference.v1 import chat_pb2, completions_pb2, embeddings_pb2, ranking_pb2, tokens_pb2

from services.typed.messages import shape_of

REQUESTS: list[type[Message]] = [
    chat_pb2.ChatRequest,
    completions_pb2.CompleteRequest,
    embeddings_pb2.EmbedRequest,
    ranking_pb2.RerankRequest,
    ranking_pb2.ScoreRequest,
    tokens_pb2.TokenizeRequest,
    tokens_pb2.DetokenizeRequest,
]
ANSWERS: list[type[Message]] = [
    chat_pb2.ChatResponse,
    completions_pb2.CompleteResponse,
    embeddings_pb2.EmbedResponse,
    ranking_pb2.RerankResponse,
    ranking_pb2.ScoreResponse,
    tokens_pb2.TokenizeResponse,
    tokens_pb2.DetokenizeResponse,
]

# JSON

_NUMBERS = ["0", "-0", "1", "-1", "0.0", "-0.0", "1.0", "0.5", "1e3", "1E+2", "1e400", "-1e-400", "2147483648"]
_NUMBERS += ["9007199254740993", "9223372036854775807", "9223372036854775808", "123456789012345678901234567890", "0.1"]
_STRINGS = [
    '"a"',
    '""',
    '"\\ud800"',
    '"\\u0000"',
    '"\\ud83d\\ude00"',
    '"h\\u00e9 é ☃ 😀"',
    '"\\"\\\\\\/"',
    '"auto"',
    '"text"',
]
_ATOMS = st.sampled_from(
    [*_NUMBERS, *_STRINGS, "null", "true", "false", "[]", "{}", '{"a":1,"a":2}', '{"z": 1,"b" :[2]}']
)


def _array(items: Sequence[str]) -> str:
    return f"[{', '.join(items)}]"


def _object(members: dict[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(key)}: {value}" for key, value in members.items()) + "}"


JSON = st.recursive(
    _ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(_array),
        st.dictionaries(st.sampled_from(["type", "function", "name", "url", "text", "ü"]), inner, max_size=3).map(
            _object
        ),
    ),
    max_leaves=5,
)
"""JSON texts of any kind, with what easily breaks: large numbers, half pairs, keys that stand twice."""

_PART = st.one_of(
    st.sampled_from(
        ['{"type":"text","text":"a"}', '{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}']
    ),
    st.sampled_from(['{"type":"input_audio","input_audio":{"data":"AA==","format":"wav"}}', '{"type":"text"}', '"a"']),
    st.sampled_from(
        ['{"type":"input_audio","input_audio":{"data":"AB==","format":"wav"}}', '{"uuid":"1","type":"text","text":"a"}']
    ),
    JSON,
)
_USUAL = {
    "content": st.lists(_PART, max_size=3).map(_array),
    "tool_choice": st.sampled_from(['"auto"', '{"type":"function","function":{"name":"f"}}', '{"type":"allowed"}']),
    "prompt": st.sampled_from(['"a"', '["a"]', '["a","b"]', "[1,2]", "[[1,2],[3]]", '["a",[1]]', "[]", "[[]]"]),
    "input": st.sampled_from(['"a"', '["a","b"]', "[1]", "[[1]]"]),
    "logit_bias": st.sampled_from(['{"1":-100,"2":0.5}', '{"1":1,"1":2}', '{"1":"2"}']),
    "bytes": st.lists(st.integers(0, 255).map(str), max_size=3).map(_array),
    "stop": st.sampled_from(['"a"', '["a","b"]', "[]"]),
    "embedding": st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False).map(json.dumps), max_size=3).map(
        _array
    ),
}


@st.composite
def objects(draw: st.DrawFn, kind: Descriptor, depth: int = 3) -> str:
    """The JSON of an object that might be such a message, or nearly."""
    readers = shape_of(kind).readers
    known = draw(st.lists(st.sampled_from(sorted(readers)), max_size=4, unique=True)) if readers else []
    found: dict[str, str] = {}
    for key in known:
        reader = readers[key]
        holder: Any = kind.fields_by_name[reader.inside].message_type if reader.inside else kind
        field = holder.fields_by_name.get(reader.name)
        found[key] = draw(
            st.one_of(_value(key, field, depth), JSON) if draw(st.booleans()) else _value(key, field, depth)
        )
    found |= draw(st.dictionaries(st.sampled_from(["new", "x y", "object", "ü", "delta"]), JSON, max_size=2))
    return _object(dict(draw(st.permutations(sorted(found.items())))))


def _value(key: str, field: FieldDescriptor | None, depth: int) -> st.SearchStrategy[str]:
    if key in _USUAL:
        return _USUAL[key]
    if field is None or (field.message_type is not None and (depth == 0 or field.message_type.GetOptions().map_entry)):
        return JSON
    one = _ATOMS if field.message_type is None else objects(field.message_type, depth - 1)
    if field.name.endswith("_json"):
        one = JSON
    elif field.type == FieldDescriptor.TYPE_STRING:
        one = st.sampled_from(_STRINGS)
    elif field.message_type is None:
        one = st.sampled_from(_NUMBERS)
    return st.lists(one, max_size=2).map(_array) if field.is_repeated else one


def plain(text: bytes | str) -> Any:
    """JSON as values that are equal where nothing was lost: numbers by their value and sign, members in any order, but
    where a key stands twice.
    """
    return json.loads(text, parse_int=_whole, parse_float=_number, object_pairs_hook=_pairs)


def _whole(text: str) -> Any:
    return int(text)


def _number(text: str) -> Any:
    number = float(text)
    if math.isinf(number):
        return ("huge", text)
    if number == 0 and math.copysign(1, number) < 0:
        return ("-0.0",)
    return int(number) if number.is_integer() else number


def _pairs(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    return found if len(found) == len(pairs) else ("pairs", pairs)


def told(value: Any) -> Any:
    """What an answer tells: without what is null, 0 or empty, and without the names of kinds of objects."""
    if isinstance(value, tuple) and value[0] == "pairs":
        return told(dict(value[1]))  # as every reader takes them
    if isinstance(value, list):
        return [told(one) for one in value]
    if isinstance(value, dict):
        return {key: inner for key, one in value.items() if key != "object" and not _nothing(inner := told(one))}
    return value


def _nothing(value: Any) -> bool:
    return value is None or (value in (0, "", [], {}) and value is not False)


# Messages

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: _TEXT,
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT32: st.integers(-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32, allow_nan=False, allow_infinity=False),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=4),
}
_EXTRA = st.dictionaries(st.sampled_from(["new", "other", "ü"]), JSON, min_size=1, max_size=2).map(_object)


@st.composite
def messages(draw: st.DrawFn, kind: Descriptor, depth: int = 4) -> Message:
    """A message that the typed API takes."""
    message = GetMessageClass(kind)()
    oneofs = {oneof.name: draw(st.sampled_from([one.name for one in oneof.fields])) for oneof in kind.oneofs}
    for field in kind.fields:
        oneof = field.containing_oneof
        must = oneof is not None and len(oneof.fields) > 1
        if oneof is not None and oneofs[oneof.name] != field.name:
            continue
        if not must and (depth == 0 or draw(st.booleans())):
            continue
        _set(draw, message, field, depth)
    if kind.name == "InlineImage":
        message.media_type = "image/png"  # type: ignore[attr-defined]
    if kind.name == "ContentPart" and message.WhichOneof("part") == "other_json":
        message.ClearField("extra_json")
    return message


def _set(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    name, inner = field.name, field.message_type
    if name == "extra_json":
        message.extra_json = draw(_EXTRA)
    elif name.endswith("_json"):
        setattr(message, name, draw(JSON))
    elif name in ("prompts", "inputs"):
        tokens = st.lists(st.integers(0, 1 << 40), min_size=1, max_size=3).map(lambda ids: {"tokens": {"ids": ids}})
        kinds = st.one_of(st.lists(_TEXT.map(lambda text: {"text": text}), max_size=3), st.lists(tokens, max_size=3))
        getattr(message, name).extend(completions_pb2.Prompt(**one) for one in draw(kinds))
    elif inner is not None and inner.GetOptions().map_entry:
        getattr(message, name).update(draw(st.dictionaries(_TEXT, _SCALARS[FieldDescriptor.TYPE_DOUBLE], max_size=2)))
    elif inner is not None and field.is_repeated:
        getattr(message, name).extend(draw(st.lists(messages(inner, max(0, depth - 1)), max_size=2)))
    elif inner is not None:
        getattr(message, name).CopyFrom(draw(messages(inner, max(0, depth - 1))))
    elif field.is_repeated:
        getattr(message, name).extend(draw(st.lists(_SCALARS[field.type], max_size=3)))
    else:
        setattr(message, name, draw(_SCALARS[field.type]))


def float32(number: float) -> float:
    """A number as 32 bits hold it."""
    (rounded,) = struct.unpack("f", struct.pack("f", number))
    return float(rounded)
