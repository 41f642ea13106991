"""A stream of events as pieces: the same whatever the bytes come in, with an end that tells whether it is whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weft.inference.v1 import chat_pb2

from services.core.errors import GrpcCode, Reason, ServiceError
from services.typed.events import Event, EventReader
from services.typed.messages import answer_json
from services.typed.stream_events import stream_events
from services.typed.streams import StreamReader, chat_stream, completion_stream
from tests.testing.typed import JSON, plain

DONE = b"data: [DONE]\n\n"


def event(**members: Any) -> bytes:
    return (
        b"data: "
        + json.dumps({"id": "c-1", "object": "chat.completion.chunk", "created": 7, **members}).encode()
        + b"\n\n"
    )


def said(text: str, index: int = 0, **members: Any) -> bytes:
    return event(
        choices=[{"index": index, "delta": {"content": text}, "logprobs": None, "finish_reason": None, **members}]
    )


def finished(index: int = 0, reason: str = "stop", **members: Any) -> bytes:
    return event(choices=[{"index": index, "delta": {}, "finish_reason": reason, "stop_reason": None, **members}])


def all_of(reader: StreamReader[Any], chunks: Sequence[bytes]) -> list[Any]:
    pieces = [piece for chunk in chunks for piece in reader.feed(chunk)]
    last = reader.end()
    return pieces if last is None else [*pieces, last]


def whole(pieces: Sequence[Any]) -> dict[str, Any]:
    """What all pieces say together."""
    (start,) = [piece.start for piece in pieces if piece.HasField("start")]
    assert not any(piece.HasField("end") for piece in pieces[:-1])
    extra: dict[str, Any] = {}
    for piece in pieces:
        extra |= plain(piece.extra_json or "{}")
    deltas = [delta for piece in pieces for delta in piece.deltas]
    return {"start": start, "deltas": deltas, "end": pieces[-1].end, "extra": extra}


def test_pieces_of_a_chat() -> None:
    opening = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}], system_fingerprint="x")
    usage = event(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})
    reader = chat_stream()
    (first,) = reader.feed(b": weft waiting \xe2\x80\x94 Waiting in the queue\n\n")
    assert first == chat_pb2.StreamChatResponse(progress="Waiting in the queue")
    (second,) = reader.feed(opening + said("a") + said("b"))
    assert (second.start.id, second.start.created, second.start.extra_json) == ("c-1", 7, '{"system_fingerprint":"x"}')
    assert [delta.content for delta in second.deltas] == ["", "a", "b"]
    assert second.deltas[0].role == "assistant"
    assert list(reader.feed(finished(stop_reason=13))) == []
    (last,) = reader.feed(usage + DONE)
    assert reader.end() is None
    end = last.end
    assert [(one.index, one.finish_reason, one.stop_reason_json) for one in end.choices] == [(0, "stop", "13")]
    assert (end.usage.prompt_tokens, end.usage.completion_tokens, end.usage.total_tokens) == (1, 2, 3)


def test_what_comes_together_is_one_piece_unless_it_tells_one_thing_twice() -> None:
    pieces = chat_stream().feed(
        said("a") + event(choices=[], new=1) + event(choices=[], new=1) + event(choices=[], new=2)
    )
    assert [piece.extra_json for piece in pieces] == ['{"new":1}', '{"new":2}']


def test_calls_of_tools_in_pieces() -> None:
    call = {"index": 0, "id": "t", "type": "function", "function": {"name": "look", "arguments": "", "new": 1}, "x": 2}
    (piece,) = chat_stream().feed(event(choices=[{"index": 0, "delta": {"tool_calls": [call]}}]))
    (delta,) = piece.deltas[0].tool_calls
    assert (delta.id, delta.type, delta.name, delta.arguments) == ("t", "function", "look", "")
    assert json.loads(delta.extra_json) == {"x": 2, "function": {"new": 1}}


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [DONE],
        [said("a")],
        [said("a"), DONE],
        [said("a"), finished(), said("b", 1), DONE],
        [said("a", 1), finished(0), DONE],
    ],
)
def test_an_answer_that_was_cut_never_looks_whole(chunks: list[bytes]) -> None:
    with pytest.raises(ServiceError) as caught:
        all_of(chat_stream(), chunks)
    assert caught.value.reason is Reason.UPSTREAM_BROKEN


def test_an_error_in_mid_stream() -> None:
    reader = chat_stream()
    list(reader.feed(said("a")))
    died = b'data: {"error": {"message": "The engine died", "type": "InternalServerError", "code": 500}}\n\n'
    with pytest.raises(ServiceError) as caught:
        list(reader.feed(died))
    assert (caught.value.reason, caught.value.message) == (Reason.UPSTREAM_BROKEN, "The engine died")
    with pytest.raises(ServiceError) as caught:
        list(chat_stream().feed(b'data: {"error": {"message": "No", "type": "x", "code": 400, "param": "n"}}\n\n'))
    assert (caught.value.reason, caught.value.grpc) == (Reason.REQUEST_REFUSED, GrpcCode.INVALID_ARGUMENT)
    assert caught.value.param == "n"


def test_what_is_no_event_of_the_api() -> None:
    for data in (b"data: [1]\n\n", b"data: {\n\n", b"data: oops\n\n"):
        with pytest.raises(ServiceError) as caught:
            list(chat_stream().feed(data))
        assert caught.value.reason is Reason.UPSTREAM_BROKEN


@pytest.mark.parametrize(
    "broken",
    [
        b'data: {"error": {"message": "died"}}\n\n',
        b"data: oops\n\n",
        b'data: {"id":"c-1","new":"\xff","choices":[]}\n\n',
        b'data: {"id":"c-1","choices":[{"index":0,"delta":{"content":"\xff"}}]}\n\n',
    ],
)
def test_what_comes_together_with_what_is_broken_is_not_lost(broken: bytes) -> None:
    pieces = chat_stream().feed(said("a") + broken + said("never"))
    assert [delta.content for delta in next(pieces).deltas] == ["a"]
    with pytest.raises(ServiceError) as caught:
        next(pieces)
    assert caught.value.reason is Reason.UPSTREAM_BROKEN


def test_a_completion_in_pieces() -> None:
    chunks = [
        b'data: {"id":"c","object":"text_completion","created":1,"choices":[{"index":0,"text":"a","logprobs":'
        b'{"tokens":["a"],"token_logprobs":[null],"top_logprobs":[null],"text_offset":[0]},"finish_reason":null}]}\n\n',
        b'data: {"id":"c","choices":[{"index":0,"text":"","finish_reason":"length","stop_reason":null}]}\n\n',
        DONE,
    ]
    pieces = all_of(completion_stream(), chunks)
    (delta,) = [delta for piece in pieces for delta in piece.deltas]
    assert (delta.text, list(delta.logprobs.tokens), list(delta.logprobs.text_offset)) == ("a", ["a"], [0])
    assert json.loads(delta.logprobs.extra_json) == {"token_logprobs": [None], "top_logprobs": [None]}
    assert pieces[-1].end.choices[0].finish_reason == "length"


# However the bytes come

_DELTAS = st.fixed_dictionaries(
    {}, optional={"role": st.just('"assistant"'), "content": JSON, "reasoning": JSON, "tool_calls": JSON, "new": JSON}
)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    events = []
    for _ in range(draw(st.integers(1, 4))):
        delta = ",".join(f'"{key}":{value}' for key, value in draw(_DELTAS).items())
        extra = "".join(f',"{key}":{draw(JSON)}' for key in draw(st.sets(st.sampled_from(["x", "logprobs"]))))
        top = "".join(f',"{key}":{draw(JSON)}' for key in draw(st.sets(st.sampled_from(["y", "service_tier"]))))
        index = draw(st.integers(0, 1))
        choice = f'{{"index":{index},"delta":{{{delta}}}{extra}}}'
        events.append(f'data: {{"id":"c","model":"m","object":"chat.completion.chunk","choices":[{choice}]{top}}}')
    events += [f'data: {{"id":"c","choices":[{{"index":{i},"delta":{{}},"finish_reason":"stop"}}]}}' for i in (0, 1)]
    return [one.encode() for one in [*events, "data: [DONE]"]]


@settings(max_examples=100, deadline=None)
@given(streams(), st.lists(st.integers(1, 40), max_size=8), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_the_answer_is_the_same_however_its_bytes_come(events: list[bytes], cuts: list[int], line: bytes) -> None:
    expected = whole(all_of(chat_stream(), [one + b"\n\n" for one in events]))
    text = b"".join(one + line * 2 for one in events)
    chunks = []
    for cut in cuts:
        chunks.append(text[:cut])
        text = text[cut:]
    assert whole(all_of(chat_stream(), [*chunks, text, b"\n"])) == expected


@settings(max_examples=100, deadline=None)
@given(streams())
def test_pieces_become_events_again(events: list[bytes]) -> None:
    pieces = all_of(chat_stream(), [one + b"\n\n" for one in events])
    again = whole(all_of(chat_stream(), list(stream_events(pieces))))
    expected = whole(pieces)
    assert plain(again["start"].extra_json or "{}") == plain(expected["start"].extra_json or "{}")
    for one in (again, expected):
        one["start"].ClearField("extra_json")
        one["deltas"] = [plain(answer_json(delta)) for delta in one["deltas"]]
    assert again == expected


@given(st.lists(st.sampled_from([b"data: a\n", b": b\n", b"event: x\n", b"\n", b"data:c\r\n", b"\r", b"data\n"])))
def test_events_are_read_as_the_standard_says(lines: list[bytes]) -> None:
    text = b"".join(lines) + b"\n\n\n"
    together = list(EventReader().feed(text))
    reader = EventReader()
    assert [one for byte in text for one in reader.feed(bytes([byte]))] == together


def test_a_line_that_ends_by_a_carriage_return_alone_ends_at_once() -> None:
    reader = EventReader()
    assert list(reader.feed(b"data: a\r\r")) == [Event(b"a")]
    assert list(reader.feed(b"\ndata: b\r\n\r\n")) == [Event(b"b")]


def test_carriage_returns_in_an_event_that_does_not_end_are_read_once() -> None:
    reader = EventReader()
    for _ in range(2000):  # 32 MB, of which each byte would be copied a thousand times
        assert list(reader.feed(b"data: " + bytes(16_000) + b"\r")) == []
    (event,) = reader.feed(b"\r")
    assert len(event.data) == 2000 * 16_001 - 1


def test_events_of_several_lines() -> None:
    text = b"event: x\ndata: a\ndata:b\nid: 1\n\n:c\n\n\n\ndata: d\n\ndata: lost"
    assert list(EventReader().feed(text)) == [Event(b"a\nb"), Event(b"c", comment=True), Event(b"d")]
