"""The quick ways through a stream give what the long one gives, whatever comes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.core.errors import ServiceError
from services.typed.quick import QuickReader
from services.typed.streams import StreamReader, chat_stream, completion_stream
from services.typed.templates import template_of, texts_between

BEGUN: dict[str, Any] = {"id": "c-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}


class Counting(QuickReader):
    """Knows how many events it was asked to read."""

    count = 0

    def read(self, data: bytes) -> Any:
        self.count += 1
        return super().read(data)


class Never(QuickReader):
    """Reads no event."""

    def read(self, data: bytes) -> Any:
        return None


def reader(chat: bool, quick: type[QuickReader] = QuickReader) -> StreamReader[Any]:
    made: StreamReader[Any] = chat_stream() if chat else completion_stream()
    made._quick = quick(made._kind.decode, made._kind.constant)
    return made


def told(reader: StreamReader[Any], chunks: Sequence[bytes]) -> list[Any]:
    """All that a reader makes of chunks: the pieces of each, and the error that ends it."""
    made: list[Any] = []
    try:
        for chunk in chunks:
            pieces: list[Any] = []
            made.append(pieces)
            for piece in reader.feed(chunk):
                pieces.append(piece)  # those before an error count, too
        made.append(reader.end())
    except ServiceError as error:
        made.append((error.reason, error.message, error.param, error.info))
    return made


# Texts, as they stand between quotes, and what is none

_TEMPLATE = '"},"logprobs":null,"finish_reason":null}]}'
_AFTER = f"{_TEMPLATE}\n\ndata: "
_TEXTS = st.one_of(
    st.sampled_from(["a", " word", "", "é", "😀", "\x7f", "\u2028", 'say "hi"', "\\", '\\"', "\n\n", "\r", "\x00"]),
    st.sampled_from([_TEMPLATE, _AFTER, '{"content":"a"}', '","', '"\n,"', "data: [DONE]", "[DONE]"]),
    st.text(max_size=3),
)
_INSIDE = st.builds(
    lambda text, ascii_: json.dumps(text, ensure_ascii=ascii_)[1:-1].encode("utf-8", "surrogatepass"),
    _TEXTS,
    st.booleans(),
)
_BROKEN = [b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\\ude00\\ud83d", b"\\x", b"\\", b'"', b'","', b'x","y', b',"y']
_BROKEN += [b'x"\n,"y', b"\x01", b"\t", b"\n", b'a"}}],"x":[{"b":{"c":"d', b'"\n\n: b', b"a\\", _AFTER.encode()]
_NO_TEXT = st.sampled_from([*_BROKEN, _TEMPLATE.encode()])
_MOSTLY = [*[_INSIDE] * 29, _NO_TEXT]


@st.composite
def kinds_of_events(draw: st.DrawFn, chat: bool, odd: bool) -> bytes:
    """The JSON of an event, with TEXT where a text is to stand: one as nearly all are, or one that is otherwise in one
    thing or two.
    """
    members = {**BEGUN, "object": "chat.completion.chunk" if chat else "text_completion"}
    said: dict[str, Any] = {"delta": {"content": "TEXT"}} if chat else {"text": "TEXT"}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": None}
    choices = [choice]
    if odd:
        for _ in range(draw(st.integers(1, 2))):
            table, into = draw(st.sampled_from(_ODD if chat else _ODD[:2]))
            key = draw(st.sampled_from(sorted(table)))
            of: dict[str, Any] = {"event": members, "choice": choice, "delta": choice.get("delta", {})}[into]
            of[key] = draw(table[key])
        choices = draw(st.sampled_from([[choice], [choice], [choice], [], [choice, {**choice, "index": 1}]]))
    members = {**members, "choices": choices}
    if odd and draw(st.booleans()):
        members = dict(draw(st.permutations(sorted(members.items()))))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    return json.dumps(members, separators=separators, ensure_ascii=draw(st.booleans())).encode()


_ODD_MEMBERS: dict[Any, Any] = {
    "id": st.sampled_from(["c-1", "c-2", None, 5]),
    "model": st.sampled_from(["m", "n", "é", "TEXT", {"content": "TEXT", "text": ""}]),
    "created": st.sampled_from([7, 8, 7.0, 1 << 64]),
    "object": st.sampled_from(["chat.completion.chunk", "text_completion", None]),
    "usage": st.sampled_from(
        [
            None,
            {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "prompt_tokens_details": None},
            {"prompt_tokens": 0, "prompt_tokens_details": {"cached_tokens": 1}},
            {"total_tokens": 1 << 63, "new": 1},
            {},
            [],
        ]
    ),
    "new": st.sampled_from([None, 1, "TEXT"]),
    "service_tier": st.sampled_from([None, "x"]),
    "error": st.sampled_from([None, {"message": "TEXT", "code": 400}]),
}
_ODD_OF_CHOICES: dict[Any, Any] = {
    "index": st.sampled_from([1, -1, 2, (1 << 31) - 1, 1 << 31, "0", None, 0.0]),
    "finish_reason": st.sampled_from(["stop", "length", "TEXT", 1, None]),
    "stop_reason": st.sampled_from([None, 13, "TEXT"]),
    "logprobs": st.sampled_from([None, {"content": [{"token": "a", "logprob": -1.5, "bytes": [97]}]}, {"tokens": []}]),
    "text": st.sampled_from(["TEXT", "", None]),
    "token_ids": st.sampled_from([None, [1, 2]]),
    "new": st.sampled_from([None, {"content": "TEXT"}]),
}
_ODD_OF_DELTAS: dict[Any, Any] = {
    "role": st.sampled_from(["assistant", "TEXT", None]),
    "content": st.sampled_from(["TEXT", "", None, ["TEXT"]]),
    "reasoning": st.sampled_from(["TEXT", "", None]),
    "reasoning_content": st.sampled_from(["TEXT", None]),
    "tool_calls": st.sampled_from([[], None, [{"index": 0, "function": {"name": "f", "arguments": "TEXT"}}]]),
}
_ODD = [(_ODD_MEMBERS, "event"), (_ODD_OF_CHOICES, "choice"), (_ODD_OF_DELTAS, "delta")]
_FORMS = [(b"data:", b""), (b"event: x\ndata: ", b""), (b": note\ndata: ", b""), (b"data: ", b"\nid: 1")]
_FORMS += [(b"data: \ndata: ", b""), (b"data: ", b"\n\n: note"), (b": weft waiting", b""), (b"", b"")]
_FORMS += [*[(b"data: ", b"")] * 40]


@st.composite
def chunks(draw: st.DrawFn, chat: bool) -> list[bytes]:
    """The bytes of a stream, of events of a few kinds, cut between them, anywhere, or not at all."""
    usual = draw(kinds_of_events(chat, False))
    others = draw(st.lists(kinds_of_events(chat, True), max_size=2))
    which = st.sampled_from([*[usual] * 8, *others * 2])
    parts = []
    for data in draw(st.lists(which, min_size=3, max_size=12)):
        while b"TEXT" in data:
            data = data.replace(b"TEXT", draw(draw(st.sampled_from(_MOSTLY))), 1)
        parts.append(data.join(draw(st.sampled_from(_FORMS))) + b"\n\n")
    for index in draw(st.sampled_from([(), (0,), (0, 1)])):
        choice = {"index": index, "delta": {}, "text": "", "finish_reason": "stop"}
        del choice["text" if chat else "delta"]
        parts.append(b"data: " + json.dumps({**BEGUN, "choices": [choice]}).encode() + b"\n\n")
    for at in draw(st.sampled_from([(), (-1,), (2, -1)])):
        parts.insert(at if at > 0 else len(parts), b"data: [DONE]\n\n")
    if draw(st.booleans()):
        return parts
    text, cut = b"".join(parts), []
    for size in draw(st.lists(st.integers(1, 900), max_size=6)):
        cut.append(text[:size])
        text = text[size:]
    return [*cut, text]


@pytest.mark.parametrize("chat", [True, False])
@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_the_quick_ways_give_the_same(chat: bool, data: st.DataObject) -> None:
    drawn = data.draw(chunks(chat))
    assert told(reader(chat), drawn) == told(reader(chat, Never), drawn)


# The ways are taken


def said(inside: bytes, index: int = 0, key: str = "content") -> bytes:
    choice = {"index": index, "delta": {key: "TEXT"}, "finish_reason": None}
    return b"data: " + json.dumps({**BEGUN, "choices": [choice]}).encode().replace(b"TEXT", inside) + b"\n\n"


def test_events_that_are_alike_are_read_at_once() -> None:
    stream = reader(True, Counting)
    assert isinstance(quick := stream._quick, Counting)
    list(stream.feed(said(b"a")))
    (piece,) = stream.feed(said(b"b") * 3 + said(b'\\"\\n') + said("é".encode()))
    assert ([delta.content for delta in piece.deltas], quick.count) == (["b", "b", "b", '"\n', "é"], 1)
    (piece,) = stream.feed(said(b"r", key="reasoning") + said(b"t", key="reasoning") + said(b"c"))
    assert [delta.reasoning for delta in piece.deltas] == ["r", "t", ""]
    assert quick.count == 3, "which has the template of what is thought now"


def test_events_of_another_choice_or_model_are_not_alike() -> None:
    stream = reader(True, Counting)
    (piece,) = stream.feed(said(b"a") + said(b"b", 1) + said(b"c"))
    assert [(delta.index, delta.content) for delta in piece.deltas] == [(0, "a"), (1, "b"), (0, "c")]
    other = said(b"d").replace(b'"m"', b'"n"')
    first, second = stream.feed(said(b"a") + other + said(b"e"))
    assert [delta.content for delta in (*first.deltas, *second.deltas)] == ["a", "d", "e"]
    assert (first.extra_json, second.extra_json) == ('{"model":"n"}', '{"model":"m"}')


@pytest.mark.parametrize("data", [b'{"content":"\\u0061"}', b'{"content":"a","content":"b"}', b'{\n"content":"a"}'])
def test_what_is_no_template(data: bytes) -> None:
    assert template_of(data, 0, "content") is None


@pytest.mark.parametrize("run", [[b'a","b'], [b"a\\", b',"y'], [b'a"\n,"b'], [b"\\ud800"], [b"\xff"], [b"a\nb"]])
def test_what_is_not_between_quotes(run: list[bytes]) -> None:
    assert texts_between(run) is None
    assert texts_between([b"a", *run]) is None
    assert texts_between([*run, b"a"]) is None


@pytest.mark.parametrize(
    "members",
    [
        '"choices":[{"index":0,"delta":{"role":"assistant","content":"TEXT"}}]',
        '"choices":[{"index":1,"delta":{"role":"x"}},{"index":0,"delta":{"content":"TEXT"}}]',
        '"usage":{"total_tokens":1},"choices":[{"index":0,"delta":{"content":"TEXT"}}]',
        '"choices":[{"index":0,"delta":{"content":"TEXT"},"finish_reason":"stop"}]',
        '"choices":[{"index":-1,"delta":{"reasoning":"TEXT"}}]',
        '"choices":[{"index":0,"delta":{}}],"choices":[{"index":0,"delta":{"content":"TEXT"}}]',
    ],
)
@pytest.mark.parametrize("begun", ['"id":"c"', '"model":5,"id":5', '"id":"content"'])
def test_streams_of_one_kind_of_event_give_the_same(begun: str, members: str) -> None:
    rest = "".join(f'"{key}":{json.dumps(value)},' for key, value in BEGUN.items() if f'"{key}"' not in begun)
    event = f"data: {{{begun},{rest}{members}}}\n\n"
    drawn = ["".join(event.replace("TEXT", text) for text in texts).encode() for texts in ("ab", "c", "d")]
    assert told(reader(True), drawn) == told(reader(True, Never), drawn)
