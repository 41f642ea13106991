"""The most that a call may use, and what makes it so."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.core.errors import Reason, ServiceError
from services.router import pointers
from services.router.body import read_body
from services.router.bounds import MOST_TOKENS, Reckoning, bound, edits_for, fitting
from services.router.splice import splice

RECKONING = Reckoning(answer=100, overhead=10, unseen=1000)
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"


def answers(operation: str, **fields: Any) -> tuple[int, int]:
    body = json.dumps(fields).encode()
    found = bound(operation, body, read_body(body), RECKONING)
    return found.answer, found.texts


@pytest.mark.parametrize(
    ("operation", "fields", "expected"),
    [
        (CHAT, {"max_tokens": 5}, (5, 1)),
        (CHAT, {"max_completion_tokens": 5}, (5, 1)),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 7}, (7, 1)),
        (CHAT, {}, (100, 1)),
        (CHAT, {"max_tokens": None}, (100, 1)),
        (CHAT, {"max_tokens": 5, "n": 3}, (5, 3)),
        (CHAT, {"max_tokens": 5, "n": None}, (5, 1)),
        (CHAT, {"max_output_tokens": 5}, (100, 1)),
        (CHAT + "/batch", {"max_tokens": 5, "messages": [[{}], [{}]]}, (5, 2)),
        (COMPLETIONS, {"prompt": "a"}, (16, 1)),
        (COMPLETIONS, {"prompt": "a", "max_tokens": None}, (100, 1)),
        (COMPLETIONS, {"prompt": ["a", "b"], "max_tokens": 5, "n": 3}, (5, 6)),
        (COMPLETIONS, {"prompt": [1, 2, 3], "max_tokens": 5}, (5, 1)),
        (COMPLETIONS, {"prompt": [[1, 2], [3]], "max_tokens": 5, "best_of": 4}, (5, 8)),
        (COMPLETIONS, {"prompt": [], "max_tokens": 0}, (1, 1)),
        (COMPLETIONS, {"prompt": "a", "prompt_embeds": ["x", "y"], "max_tokens": 5}, (5, 3)),
        (RESPONSES, {"max_output_tokens": 5}, (5, 1)),
        (RESPONSES, {"max_tokens": 5}, (100, 1)),
        (MESSAGES, {"max_tokens": 5}, (5, 1)),
        # 0 is a bound under the key that all servers know alone.
        (CHAT, {"max_tokens": 0}, (1, 1)),
        (CHAT, {"max_completion_tokens": 0}, (100, 1)),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 0}, (5, 1)),
        ("/v1/embeddings", {"max_tokens": 5}, (0, 0)),
        ("/v2/rerank", {}, (0, 0)),
        ("/v1/newest", {}, (100, 1)),
        (CHAT, {"max_tokens": 10**30}, (MOST_TOKENS, 1)),
    ],
)
def test_how_long_answers_may_be(operation, fields, expected):
    assert answers(operation, **fields) == expected


@pytest.mark.parametrize("value", ["5", 5.0, True, -1, [], {}])
@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens", "n"])
def test_a_bound_that_is_none_is_refused(key, value):
    with pytest.raises(ServiceError) as caught:
        answers(CHAT, **{key: value})
    assert caught.value.reason is Reason.FIELD_INVALID


def prompt(fields: dict[str, Any], operation: str = CHAT, encoding: str = "utf-8") -> tuple[int, int]:
    body = json.dumps(fields, ensure_ascii=False).encode(encoding)
    return bound(operation, body, read_body(body), RECKONING).prompt - 10, len(body)


def said(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


TEXT = {"type": "text", "text": "image_url " * 50}
URL = {"type": "image_url", "image_url": {"url": "https://a/b.png"}}
DATA = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 5000}}


@pytest.mark.parametrize(
    ("fields", "unseen", "held"),
    [
        (said(TEXT), 0, 0),
        ({"messages": [{"role": "user", "content": '{"type":"image_url","image_url":{}}'}]}, 0, 0),
        (said(TEXT, URL), 1, 0),
        (said(URL, DATA), 2, 5022),
        (said({"type": "input_audio", "input_audio": {"data": "A" * 500}}), 1, 500),
        (said({"image_url": {"url": "https://a"}}), 1, 0),
        (said({"type": "tool_result", "content": [{"type": "image", "source": {"data": "A" * 50}}]}), 1, 50),
        (said({"type": "document", "source": {"type": "text", "data": "word " * 50}}), 1, 0),
        (said({"type": "text", "text": "word " * 50, "image_url": "data:" + "A" * 50}), 1, 0),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:AAAA"}]}]}, 1, 9),
        ({"input": [{"type": "function_call_output", "output": [{"type": "input_file", "file_id": "x"}]}]}, 1, 0),
        ({"input": "a", "previous_response_id": "r"}, 1, 0),
        ({"messages": [[{"role": "user", "content": [URL]}]]}, 1, 0),
        ({"messages": 5, "input": {"a": 1}}, 0, 0),
        # What stands within another, and what a tool's arguments hold.
        (said({"type": "tool_result", "image": 1, "content": [URL, URL]}), 3, 0),
        (said({"type": "image_url", "image_url": {"type": "image_url", "url": "data:AAAA"}}), 2, 9),
        (said({"type": "tool_use", "input": {"type": "image", "data": "word " * 50}}), 1, 0),
        (said({"type": "tool_use", "input": {"type": ["image"], "x": [{"type": None}]}}), 0, 0),
        ({"messages": [[{"tool_calls": [{"arguments": {"type": "image", "data": "word " * 50}}]}]]}, 1, 0),
    ],
)
def test_what_a_body_points_to_is_reckoned_apart(fields, unseen, held):
    found, size = prompt(fields)
    assert found == size - held + unseen * 1000


def test_a_prompt_has_at_least_a_byte_a_token_in_any_encoding():
    text = "語" * 100
    fields = {"messages": [{"role": "user", "content": text}]}
    for encoding in ("utf-8", "utf-16", "utf-32"):
        assert prompt(fields, encoding=encoding)[0] >= len(json.dumps(fields, ensure_ascii=False).encode())


@pytest.mark.parametrize(
    "content",
    [rb'"\ud800 image"', rb'NaN, "image"', b'1e999, "image"', b'"image \xff"', b"1" * 5000 + b', "image"'],
)
def test_what_only_pythons_decoder_reads_is_reckoned_too(content):
    body = b'{"messages": [{"content": [%b, {"image_url": "https://a"}]}]}' % content
    assert bound(CHAT, body, read_body(body), RECKONING).prompt == len(body) + 10 + 1000
    body = b'{"prompt": ["a", %b]}' % content
    assert bound(COMPLETIONS, body, read_body(body), RECKONING).texts >= 2


def test_a_body_too_deep_for_its_bound_is_refused_as_such():
    body = b'{"messages": [{"content": ["image", %b%b]}]}' % (b"[" * 100_000, b"]" * 100_000)
    with pytest.raises(ServiceError) as caught:
        bound(CHAT, body, read_body(body), RECKONING)
    assert caught.value.reason is Reason.BODY_TOO_DEEP


QUERY = "Which loom? " * 100
IMAGES = {"content": [URL, URL]}


@pytest.mark.parametrize(
    ("fields", "pairs", "pointers"),
    [
        ({"query": QUERY, "documents": ["a"] * 50}, 50, 0),
        ({"query": QUERY, "items": ["a"] * 50}, 50, 0),
        ({"text_1": [QUERY], "text_2": ["a"] * 50}, 50, 0),
        ({"data_1": QUERY, "data_2": IMAGES}, 2, 2),
        ({"queries": QUERY, "documents": "a"}, 1, 0),
    ],
)
def test_a_query_is_computed_with_each_text(fields, pairs, pointers):
    body = json.dumps(fields).encode()
    found = bound("/v1/score", body, read_body(body), RECKONING)
    least = pairs * len(QUERY) + (pairs - 1) * 10 + pointers * 1000
    assert least <= found.prompt - 10 <= least + len(body) - len(QUERY) + 4 * pairs
    assert found.answer == 0


def test_each_image_of_a_query_is_computed_with_each_text():
    fields = {"query": IMAGES, "documents": ["a"] * 50}
    assert prompt(fields, "/rerank")[0] >= 50 * 2 * 1000


def test_texts_in_pairs_are_computed_once():
    found, size = prompt({"text_1": ["a" * 500] * 50, "text_2": ["b"] * 50}, "/score")
    assert found == size + 49 * 10


def test_images_stand_anywhere_in_what_is_embedded():
    assert prompt({"inputs": [IMAGES], "images": ["data:A", "data:B"]}, "/v2/embed")[0] > 4 * 1000


def test_each_chat_of_a_batch_has_its_template():
    found, size = prompt({"messages": [[{}]] * 5}, CHAT + "/batch")
    assert found == size + 4 * 10


def test_what_nobody_computes_costs_nothing():
    for operation in ("/tokenize", "/v1/messages/count_tokens", "/v1/chat/completions/render"):
        assert bound(operation, b"{}", read_body(b"{}"), RECKONING).tokens == 0


@pytest.mark.parametrize(
    ("operation", "fields", "answer", "after"),
    [
        (CHAT, {"x": 1}, 100, {"max_tokens": 100}),
        (CHAT, {"max_tokens": None}, 100, {"max_tokens": 100}),
        (CHAT, {"max_completion_tokens": None}, 100, {"max_tokens": 100}),
        (CHAT, {"max_completion_tokens": 0}, 100, {"max_tokens": 100}),
        (CHAT, {"max_tokens": 50}, 50, {}),
        (CHAT, {"max_tokens": 50}, 20, {"max_tokens": 20}),
        (CHAT, {"max_completion_tokens": 50, "max_tokens": 10}, 20, {"max_completion_tokens": 20}),
        (COMPLETIONS, {"prompt": "a"}, 16, {"max_tokens": 16}),
        (RESPONSES, {}, 100, {"max_output_tokens": 100}),
        (MESSAGES, {"max_tokens": 50}, 7, {"max_tokens": 7}),
        ("/v1/embeddings", {}, 0, {}),
        ("/v1/newest", {}, 100, {}),
    ],
)
def test_the_bound_is_written_into_the_body(operation, fields, answer, after):
    body = json.dumps(fields).encode()
    wanted = read_body(body)
    found = bound(operation, body, wanted, RECKONING)
    for plain in (True, False):
        spliced = splice(body, edits_for(found, wanted.fields, answer), plain=plain)
        assert json.loads(spliced) == {**fields, **after}
        # The body that is sent bounds the call by itself: what is reckoned of it again is the same.
        again = bound(operation, spliced, read_body(spliced), RECKONING)
        assert again.answer == answer


@pytest.mark.parametrize(("room", "answer"), [(10_000, 3311), (200, 45), (68, 1), (67, 0), (0, 0), (-5, 0)])
def test_how_long_answers_fit(room, answer):
    body = json.dumps({"max_tokens": 50, "n": 3, "x": "y" * 20}).encode()
    found = bound(CHAT, body, read_body(body), RECKONING)
    assert found.prompt == 65
    assert fitting(found, room) == answer
    assert fitting(found._replace(texts=0), room) == 0


def test_every_pointer_holds_a_word_that_is_looked_for() -> None:
    assert all(pointers.may_point(pointer.encode()) for pointer in pointers._POINTERS)
