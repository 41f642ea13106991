"""What answers say that they used, however they come in pieces; and what include_usage adds, taken out again."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.inference import Head
from services.router.unasked import Unasked
from services.router.usage_reader import Usage, UsageReader

JSON = Head(200, (("content-type", "application/json"),))
EVENTS = Head(200, (("content-type", "text/event-stream; charset=utf-8"),))
USAGE = {"prompt_tokens": 7, "total_tokens": 10, "completion_tokens": 3}


def pieces(text: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


def read(text: bytes, head: Head, cuts: list[int] | None = None) -> Usage | None:
    reader = UsageReader()
    for piece in pieces(text, cuts or []):
        reader.feed(piece)
    assert reader.passed == len(text)
    return reader.read(head)


def event(value: Any, name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(value).encode() + b"\n\n"


LONG = {"text": "x" * 50_000}
TRICK = {"content": '"usage":{"prompt_tokens":1,"completion_tokens":1}'}
OF_MESSAGES = {"input_tokens": 5, "output_tokens": 6, "cache_read_input_tokens": 3}
OF_RESPONSES = {"input_tokens": 5, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 6}
OF_PROMPTS = {"prompt_tokens": 9, "total_tokens": 9}
BEGINS = {"type": "message_start", "message": {"usage": {**OF_MESSAGES, "output_tokens": 0}}}


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


BODIES = {
    "chat": ({"choices": [TRICK], "usage": {**USAGE, "prompt_tokens_details": {"cached_tokens": 4}}}, Usage(7, 3, 4)),
    "long chat": ({"choices": [LONG, TRICK], "usage": USAGE, "metrics": None}, Usage(7, 3)),
    "nonsense": ({"usage": {"prompt_tokens": 10**30, "completion_tokens": 2**63}}, Usage(1 << 40, 1 << 40)),
    "responses": ({"output": [], "usage": OF_RESPONSES}, Usage(5, 6, 2)),
    "messages": ({"content": [], "usage": OF_MESSAGES}, Usage(8, 6, 3)),
    "embeddings": ({"data": [LONG], "usage": {**OF_PROMPTS, "completion_tokens": 0}}, Usage(9, 0)),
    "rerank": ({"id": "r", "usage": OF_PROMPTS, "results": [LONG]}, Usage(9, 0)),
    "short rerank": ({"usage": {"total_tokens": 9}, "results": []}, Usage(9, 0)),
}
STREAMS = {
    "chat events": (
        event({"choices": [TRICK]}) * 900 + event({"choices": [], "usage": USAGE}) + b"data: [DONE]\n\n",
        Usage(7, 3),
    ),
    "usage in every event": (
        event({"choices": [1], "usage": {**USAGE, "completion_tokens": 1}})
        + event({"choices": [], "usage": USAGE})
        + b"data: [DONE]\n\n",
        Usage(7, 3),
    ),
    "responses events": (
        event({"response": {"usage": None}, "type": "response.created"}, "response.created")
        + b"event: response.completed\ndata: "
        + compact({"response": {"output": [LONG], "usage": OF_RESPONSES}, "type": "response.completed"})
        + b"\n\n",
        Usage(5, 6, 2),
    ),
    "messages events": (
        event(BEGINS, "message_start")
        + event({"type": "content_block_delta", "delta": LONG}, "content_block_delta") * 2
        + event({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 6}}, "message_delta")
        + event({"type": "message_stop"}, "message_stop"),
        Usage(8, 6, 3),
    ),
}
DESCRIBED = Head(200, (("content-type", "application/octet-stream"), ("metadata", json.dumps({"usage": USAGE}))))
ANSWERS: dict[str, tuple[bytes, Head, Usage]] = {
    **{name: (compact(body), JSON, usage) for name, (body, usage) in BODIES.items()},
    **{name: (text, EVENTS, usage) for name, (text, usage) in STREAMS.items()},
    "bytes": (b"\x00\x01", DESCRIBED, Usage(7, 3)),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answers_usage(name):
    text, head, usage = ANSWERS[name]
    assert read(text, head) == usage


@given(st.sampled_from(sorted(ANSWERS)), st.lists(st.integers(0, 10**6), max_size=20))
def test_it_is_the_same_in_any_pieces(name, cuts):
    text, head, usage = ANSWERS[name]
    assert read(text, head, cuts) == usage


@pytest.mark.parametrize(
    ("text", "head"),
    [
        (b"", JSON),
        (b"not json", JSON),
        (b'{"usage":null}', JSON),
        (b'{"usage":{"prompt_tokens":"7"}}', JSON),
        (b'{"usage":[1]}', JSON),
        (json.dumps(TRICK).encode(), JSON),
        (b'data: {"choices":[]}\n\ndata: [DONE]\n\n', EVENTS),
        (b'{"usage":{"prompt_tokens":7}}', Head(200, (("content-type", "audio/wav"),))),
        (b'{"usage":{"prompt_tokens":7}}', Head(200, ())),
    ],
)
def test_what_says_nothing_of_usage(text, head):
    assert read(text, head) is None


@given(
    st.binary(max_size=200) | st.text('{}[]":,usage\ndata 1', max_size=200).map(str.encode),
    st.sampled_from([JSON, EVENTS]),
)
def test_wild_answers_are_no_matter(text, head):
    read(text, head)


@pytest.mark.parametrize("name", STREAMS)
def test_whether_the_end_of_a_stream_has_passed(name):
    reader = UsageReader()
    reader.feed(ANSWERS[name][0])
    assert reader.whole
    reader = UsageReader()
    reader.feed(ANSWERS[name][0][:100])
    assert not reader.whole


# What include_usage adds


def chunk(choices: list[Any], **more: Any) -> dict[str, Any]:
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}


def written(value: Any) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def token(content: str, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"index": index, "delta": {"content": content}, "logprobs": None, "finish_reason": None, **more}


def streams(contents: list[tuple[int, str]], choices: int, fingerprint: str | None) -> tuple[bytes, bytes]:
    """A stream of vLLM's without and with include_usage, as its source makes them."""
    first = [written(chunk([{"index": i, "delta": {"role": "assistant"}}], prompt_text=None)) for i in range(choices)]
    tokens = [written(chunk([token(content, index)])) for index, content in contents]
    ends = [token("", i, finish_reason="stop", stop_reason=None) for i in range(choices)]
    stamp = {"system_fingerprint": fingerprint} if fingerprint else {}
    usage = chunk([], usage=USAGE, **stamp)
    done = b"data: [DONE]\n\n"
    plain = [*first, *tokens, *(written(chunk([end], **stamp)) for end in ends), done]
    counted = [*first, *tokens, *(written(chunk([end])) for end in ends), written(usage), done]
    return b"".join(plain), b"".join(counted)


contents = st.lists(
    st.tuples(st.just(0), st.text(max_size=20) | st.just('"choices":[] "finish_reason":"stop"')), max_size=6
)


@given(
    contents,
    st.integers(1, 3),
    st.sampled_from(["vllm-0.32.0-x", 'q"uo\\te', None]),
    st.lists(st.integers(0, 10**4), max_size=30),
)
def test_the_caller_sees_what_it_would_have_seen(contents, choices, fingerprint, cuts):
    plain, counted = streams(contents, choices, fingerprint)
    unasked = Unasked()
    passed = b"".join(unasked.feed(piece) for piece in pieces(counted, cuts)) + unasked.end()
    assert passed == plain
    assert unasked.usage == Usage(7, 3)


def test_tokens_pass_at_once_and_unchanged():
    _, counted = streams([(0, "a"), (0, "b")], 1, "f")
    unasked = Unasked()
    events = [one + b"\n\n" for one in counted.split(b"\n\n")[:-1]]
    passed = [unasked.feed(one) for one in events]
    assert passed[:3] == events[:3]
    assert (passed[3], passed[4].count(b"data: "), passed[5]) == (b"", 1, events[5])
    assert passed[1] is events[1]


def test_an_event_that_is_too_long_to_keep_passes_as_it_comes():
    plain, counted = streams([(0, "x" * 100_000), (0, "y")], 1, "f")
    unasked = Unasked()
    sizes = []
    passed = b""
    for start in range(0, len(counted), 1000):
        passed += unasked.feed(counted[start : start + 1000])
        sizes.append(start + 1000 - len(passed))
    assert passed + unasked.end() == plain
    assert max(sizes) < 20_000


def test_a_server_that_tells_everybody_is_left_as_it_is():
    events = [written(chunk([token("a")], usage=USAGE)), written(chunk([token("", finish_reason="stop")], usage=USAGE))]
    text = b"".join(events) + written(chunk([], usage=USAGE, system_fingerprint="f")) + b"data: [DONE]\n\n"
    unasked = Unasked()
    assert b"".join(unasked.feed(piece) for piece in pieces(text, [50, 90, 400])) + unasked.end() == text


def test_a_stream_that_ends_with_an_error_loses_nothing():
    plain, _ = streams([(0, "a")], 2, None)
    text = plain.replace(b"data: [DONE]", b'data: {"error":{"message":"x"}}\n\ndata: [DONE]')
    unasked = Unasked()
    assert b"".join(unasked.feed(piece) for piece in pieces(text, [70, 75, 300])) + unasked.end() == text


FORGED = {"tools": [{"parameters": {"usage": USAGE, "type": "response.completed"}}], "usage": None}


@pytest.mark.parametrize("padding", [0, 20_000, 50_000])
def test_a_tool_that_looks_like_usage_is_none(padding):
    answer = {"status": "queued", "metadata": "x" * padding, **FORGED}
    assert read(compact(answer), JSON) is None
    begun = b"event: response.created\ndata: " + compact({"response": answer, "type": "response.created"}) + b"\n\n"
    said = b"event: response.output_text.delta\ndata: " + compact({"delta": "event: message_stop\n"}) + b"\n\n"
    for stream in (begun, begun + said):
        reader = UsageReader()
        reader.feed(stream)
        assert not reader.whole
        assert reader.read(EVENTS) is None


def test_events_that_end_otherwise_than_vllms_pass_at_once():
    unasked = Unasked()
    events = [b'data: {"choices":[%d]}\r\n\r\n' % number for number in range(3)]
    events += [b'data: {"choices":[],"usage":{"prompt_tokens":1}}\r\n\r\n', b"data: [DONE]\r\n\r\n"]
    assert [unasked.feed(event) for event in events] == events
    assert (unasked.end(), unasked.usage) == (b"", None)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_what_is_no_stream_of_events_passes_whole(text, cuts):
    unasked = Unasked()
    assert b"".join(unasked.feed(piece) for piece in pieces(text, cuts)) + unasked.end() == text
