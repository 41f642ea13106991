"""The comparison accepts what vLLM's timing changes, and nothing else. (These tests need no vLLM.)"""

import json
from typing import Any

import pytest

from tests.vllm.compare import same, same_shape
from tests.vllm.exchange import Answer

SSE = {"content-type": "text/event-stream; charset=utf-8"}
JSON = {"content-type": "application/json"}


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0, **more: Any) -> str:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return f"data: {json.dumps({'id': 'chatcmpl-abc', 'created': 17, 'choices': [choice], **more})}\n\n"


ROLE = chunk({"role": "assistant", "content": ""})
DONE = "data: [DONE]\n\n"
WHOLE = ROLE + chunk({"content": "a"}) + chunk({"content": "b"}) + chunk({"content": "c"}, "stop") + DONE


def answer(body: str, headers: dict[str, str] = SSE, status: int = 200) -> Answer:
    return Answer(status, headers, body.encode())


@pytest.mark.parametrize(
    "mesh",
    [
        WHOLE,
        WHOLE.replace("chatcmpl-abc", "chatcmpl-0123.x"),
        WHOLE.replace('"created": 17', '"created": 18'),
        ROLE + chunk({"content": "ab"}) + chunk({"content": "c"}, "stop") + DONE,
        ROLE + chunk({"content": "abc"}, "stop") + DONE,
        ROLE + chunk({"content": "abc"}) + chunk({}, "stop") + DONE,
        ROLE + chunk({"content": ""}) + chunk({"content": "ab"}) + chunk({"content": "c"}, "stop") + DONE,
    ],
    ids=[
        "equal",
        "another id",
        "another time",
        "two tokens in one event",
        "all in one",
        "an end of its own",
        "half a character",
    ],
)
def test_timing_is_accepted(mesh: str) -> None:
    same(answer(WHOLE), answer(mesh))


def told(kind: str, **more: Any) -> str:
    return f"event: response.{kind}\ndata: {json.dumps({'type': f'response.{kind}', 'sequence_number': 3, **more})}\n\n"


def spoken(*pieces: tuple[str, list[str]]) -> str:
    """A stream of the Responses API: texts, each with the tokens that it tells the log probabilities of."""
    tokens = [{"token": token, "logprob": -1.5} for _, some in pieces for token in some]
    deltas = [told("output_text.delta", delta=text, logprobs=[{"token": one} for one in some]) for text, some in pieces]
    return "".join(deltas) + told("content_part.done", part={"logprobs": tokens})


def test_what_responses_lose_of_half_a_character_is_accepted_and_no_more() -> None:
    apart, together = spoken(("a", ["a"]), ("é", ["é"])), spoken(("a", ["a"]), ("é", ["", "é"]))
    same(answer(apart), answer(together))
    same(answer(together), answer(apart))
    for wrong in (
        spoken(("a", ["a"]), ("é", [""])),
        spoken(("aé", ["a"])),
        apart.replace("-1.5", "-1.25"),
        apart.replace("event: response.content_part.done", "event: response.content_part.added"),
    ):
        with pytest.raises(AssertionError):
            same(answer(together), answer(wrong))


@pytest.mark.parametrize(
    "mesh",
    [
        WHOLE.replace('"c"', '"d"'),
        WHOLE.replace(chunk({"content": "b"}), ""),
        WHOLE.replace('"stop"', '"length"'),
        WHOLE.removesuffix(DONE),
        WHOLE.removesuffix("\n"),
        WHOLE.removeprefix(ROLE),
        WHOLE + DONE,
        WHOLE.replace("chatcmpl-abc", "chatcmpl-other", 1),
        ROLE + chunk({"content": "b"}) + chunk({"content": "a"}) + chunk({"content": "c"}, "stop") + DONE,
        ROLE + chunk({"content": "ab"}) + chunk({"content": "c"}, "stop", usage={"total_tokens": 1}) + DONE,
        ROLE + chunk({"content": "ab"}) + ": comment\n\n" + chunk({"content": "c"}, "stop") + DONE,
        ROLE + chunk({"content": "ab"}, index=1) + chunk({"content": "c"}, "stop") + DONE,
    ],
    ids=[
        "another token",
        "a token lost",
        "another end",
        "no [DONE]",
        "cut short",
        "no role",
        "more after the end",
        "two ids",
        "tokens exchanged",
        "usage added",
        "a comment added",
        "another choice",
    ],
)
def test_changes_are_refused(mesh: str) -> None:
    with pytest.raises(AssertionError):
        same(answer(WHOLE), answer(mesh))


def test_choices_may_alternate_as_they_like() -> None:
    zero, one = chunk({"content": "a"}), chunk({"content": "b"}, index=1)
    ends = chunk({}, "stop") + chunk({}, "stop", index=1)
    same(answer(zero + one + ends), answer(one + zero + ends))


def test_arguments_of_tools_are_joined() -> None:
    def piece(arguments: str) -> str:
        return chunk({"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]})

    named = chunk({"tool_calls": [{"index": 0, "id": "call_1", "function": {"name": "weather", "arguments": ""}}]})
    same(answer(named + piece("{") + piece("}")), answer(named + piece("{}")))
    with pytest.raises(AssertionError):
        same(answer(named + piece("{") + piece("}")), answer(named.replace("weather", "clock") + piece("{}")))


@pytest.mark.parametrize(
    ("direct", "mesh"),
    [
        ('{"a":1,"b":2}', '{"b":2,"a":1}'),
        ('{"a":1}', '{"a": 1}'),
        ('{"a":1.0}', '{"a":1}'),
        ('{"a":9007199254740993}', '{"a":9007199254740992}'),
        ('{"a":"é"}', '{"a":"\\u00e9"}'),
    ],
)
def test_json_is_compared_as_bytes(direct: str, mesh: str) -> None:
    with pytest.raises(AssertionError):
        same(answer(direct, JSON), answer(mesh, JSON))


def test_the_shape_is_keys_types_and_code() -> None:
    def error(**changed: Any) -> Answer:
        return answer(json.dumps({"error": {"message": "m", "type": "t", "param": None, "code": 404, **changed}}), JSON)

    same_shape(error(), error(message="another", param="model"))
    for changed in ({"code": "404"}, {"type": "u"}, {"code": 400}, {"more": 1}):
        with pytest.raises(AssertionError):
            same_shape(error(), error(**changed))
    with pytest.raises(AssertionError):
        same_shape(error(), Answer(405, JSON, error().body))
