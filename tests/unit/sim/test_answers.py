"""What the simulator says, and the bytes in which it says it."""

from __future__ import annotations

import json

import pytest

from services.sim.answers import Answer, chat_answer, completion_answer
from services.sim.bodies import Chat, Completion, decode
from services.sim.config import SimConfig
from services.sim.embeddings import vector
from services.sim.errors import Refusal
from services.sim.faults import Fault, Faults
from services.sim.render import chat_json, chat_script, completion_json, completion_script
from services.sim.schema import example

JSON = "application/json"
CONFIG = SimConfig(max_model_len=100, max_tokens=8)
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"properties": {"a": {"type": "integer"}}}}}]


def chat(**fields: object) -> Answer:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return chat_answer(decode(json.dumps(body).encode(), JSON, Chat), CONFIG, "m", "chatcmpl-1", 7)


def completion(**fields: object) -> Answer:
    body = {"prompt": "hi", **fields}
    return completion_answer(decode(json.dumps(body).encode(), JSON, Completion), CONFIG, "m", "cmpl-1", 7)


def refusal(raw: bytes, content_type: str = JSON, kind: type = Chat) -> tuple[int, dict]:
    with pytest.raises(Refusal) as caught:
        decode(raw, content_type, kind)
    return caught.value.status, json.loads(caught.value.body)


def test_streamed_and_whole_answers_say_the_same():
    answer = chat(n=2, max_tokens=5, stream_options={"include_usage": True})
    script = chat_script(answer)
    events = [json.loads(e[6:]) for e in script.opening + script.tokens(0, 5) + script.closing(3)[:-1]]
    whole = json.loads(chat_json(answer, 3))
    for index in (0, 1):
        parts = [c for e in events for c in e["choices"] if c["index"] == index]
        assert "".join(p["delta"]["content"] for p in parts) == whole["choices"][index]["message"]["content"]
        assert [p["finish_reason"] for p in parts] == [None] * 5 + ["length"]
    assert whole["choices"][0]["message"] != whole["choices"][1]["message"]
    streamed, whole_usage = events[-1]["usage"], whole["usage"]
    assert (streamed["prompt_tokens"], streamed["completion_tokens"], streamed["total_tokens"]) == (3, 10, 13)
    assert all(whole_usage[name] == streamed[name] for name in streamed if name.endswith("_tokens"))
    assert streamed["prompt_tokens_details"] == {"cached_tokens": 3}
    assert script.closing(0)[-1] == b"data: [DONE]\n\n"


def test_completions_stream_what_they_say_whole():
    answer = completion(max_tokens=3)
    script = completion_script(answer)
    events = [json.loads(event[6:]) for event in script.opening + script.tokens(0, 2) + script.tokens(2, 3)]
    whole = json.loads(completion_json(answer, 0))
    assert "".join(event["choices"][0]["text"] for event in events) == whole["choices"][0]["text"]
    assert script.closing(0) == [b"data: [DONE]\n\n"]
    assert "system_fingerprint" in events[-1]
    assert "usage" not in events[-1]


def test_without_a_limit_the_answer_stops_by_itself():
    assert chat().choices[0].finish_reason == "stop"
    assert chat().longest == 8
    assert chat(max_tokens=4, max_completion_tokens=3).longest == 3


def test_asking_for_usage_or_another_model_name_changes_no_word():
    assert chat(stream=True, stream_options={"include_usage": True}, model="x").choices == chat().choices


def test_a_stop_string_ends_the_text_before_it():
    text = b"".join(completion(max_tokens=8).choices[0].tokens).decode()
    stop = text[9:12]
    (choice,) = completion(max_tokens=8, stop=["never", stop]).choices
    assert b"".join(choice.tokens).decode() == text[: text.index(stop)]
    assert (choice.finish_reason, choice.stop_reason) == ("stop", stop)


@pytest.mark.parametrize("tool_choice", ["required", {"type": "function", "function": {"name": "look"}}])
def test_a_demanded_tool_is_called(tool_choice):
    answer = chat(tools=TOOLS, tool_choice=tool_choice, max_tokens=50)
    message = json.loads(chat_json(answer, 0))["choices"][0]["message"]
    (call,) = message["tool_calls"]
    assert message["content"] is None
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("look", {"a": 0})
    script = chat_script(answer)
    deltas = [json.loads(e[6:])["choices"][0]["delta"] for e in script.opening + script.tokens(0, answer.longest)]
    calls = [delta["tool_calls"][0] for delta in deltas[1:]]
    assert calls[0]["id"] == call["id"]
    assert json.loads("".join(c["function"].get("arguments", "") for c in calls)) == {"a": 0}


def test_tools_that_are_only_offered_are_not_called():
    assert "tool_calls" not in json.loads(chat_json(chat(tools=TOOLS), 0))["choices"][0]["message"]


def test_a_json_schema_is_answered_by_an_instance_of_it():
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"enum": ["é"]}}},
    }
    answer = chat(
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}, max_tokens=40
    )
    content = json.loads(chat_json(answer, 0))["choices"][0]["message"]["content"]
    assert json.loads(content) == {"name": "sim", "tags": ["é"]}
    assert chat(response_format={"type": "json_object"}, max_tokens=1).choices[0].finish_reason == "length"


def test_an_endless_schema_ends():
    assert example({"properties": {"next": {"$ref": "#"}}})["next"]["next"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"),
        ({"max_tokens": 101}, "max_tokens=101 cannot be greater than max_model_len=100."),
        ({"prompt": "x" * 400}, "This model's maximum context length is 100 tokens."),
        ({"prompt": "x" * 200, "max_tokens": 60}, "you requested 60 output tokens"),
        ({"prompt": None}, "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"),
        ({"prompt": "\ud800"}, "TextEncodeInput must be Union"),
        ({"n": 0}, "n must be at least 1, got 0."),
        ({"n": 10**9}, "n must be at most 16384, got 1000000000."),
    ],
)
def test_parameters_that_vllm_refuses_are_refused(fields, message):
    with pytest.raises(Refusal) as caught:
        completion(**fields)
    assert caught.value.status == 400
    assert message in json.loads(caught.value.body)["error"]["message"]


@pytest.mark.parametrize(
    ("raw", "param", "words"),
    [
        (b"not json", "body.0", "Expecting value"),
        (b"", "body", "Field required"),
        (b"null", "body", "Field required"),
        (b"[1]", "body", "<list of 1 items>"),
        (b"{}", "body.messages", "'missing', 'loc': 'body.messages'"),
        (b'{"messages": "x"}', "body.messages", "'list_type'"),
        (b'{"messages": [], "model": 5}', "body.model", "'string_type'"),
        (b'{"messages": [], "max_tokens": "x"}', "body.max_tokens", "'int_parsing'"),
        (b'{"messages": [3]}', "body.messages.0", "'dict_type'"),
    ],
)
def test_bad_bodies_are_refused_in_vllms_shape(raw, param, words):
    status, answer = refusal(raw)
    error = answer["error"]
    assert (status, error["param"], error["type"], error["code"]) == (400, param, "Bad Request", 400)
    assert error["message"].startswith("1 validation error:\n  {")
    assert words in error["message"]


@pytest.mark.parametrize("raw", [b'{"a": "\xff"}', b'{"a":' * 10_000, b'{"a": ' + b"1" * 5000 + b"}"])
def test_unreadable_bodies_have_the_frameworks_shape(raw):
    assert refusal(raw) == (400, {"detail": "There was an error parsing the body"})


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/json ;charset=utf-8"])
def test_other_content_types_are_refused(content_type):
    assert "Unsupported Media Type" in refusal(b"{}", content_type)[1]["error"]["message"]


@pytest.mark.parametrize("raw", ['{"prompt": "é", "x": NaN}', '\ufeff{"prompt": "é"}'])
def test_what_pythons_json_accepts_is_accepted(raw):
    assert decode(raw.encode(), "Application/JSON; charset=utf-8", Completion).prompt == "é"
    assert decode('{"prompt": "é"}'.encode("utf-16"), JSON, Completion).prompt == "é"


def test_vectors_have_length_one_and_differ():
    assert vector(b"a", 64, 0) == vector(b"a", 64, 0) != vector(b"b", 64, 0)
    assert sum(x * x for x in vector(b"a", 64, 0)) == pytest.approx(1.0)


def test_faults_strike_in_order_and_as_often_as_asked():
    faults = Faults([Fault(status=500, times=2)])
    faults.add(Fault(refuse_health=True))
    faults.add(Fault(reset_before_head=True))
    assert faults.waiting == 4
    assert [faults.for_call() for _ in range(4)] == [
        *[Fault(status=500, times=2)] * 2,
        Fault(reset_before_head=True),
        None,
    ]
    assert faults.for_health()
    assert not faults.for_health()


@pytest.mark.parametrize(
    "fields",
    [{}, {"status": 200}, {"status": 499}, {"status": 500, "refuse_health": True}, {"status": 500, "times": 0}],
)
def test_a_senseless_fault_is_refused(fields):
    with pytest.raises(ValueError, match=r"fault|times|status"):
        Fault(**fields)


@pytest.mark.parametrize("setting", [{"models": ()}, {"ttft_s": -1}, {"max_num_seqs": 0}, {"max_num_queued_reqs": -1}])
def test_a_senseless_setting_is_refused_by_name(setting):
    with pytest.raises(ValueError, match=f"^{next(iter(setting))}: "):
        SimConfig(**setting)
