"""What spans tell of prompts and answers where it is turned on: texts alone, in bounds, whatever they hold."""

from __future__ import annotations

import json

import pytest

from services.router.call_content import MOST, Beginning, input_messages, output_messages


def texts(told: str) -> list[tuple[str, str]]:
    return [(message["role"], message["parts"][0]["content"]) for message in json.loads(told)]


def test_a_conversation_is_told_without_its_images():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {"messages": [{"role": "system", "content": "be brief"}, {"content": [{"text": "see "}, image, "it"]}]}
    assert texts(input_messages(json.dumps(body).encode())) == [("system", "be brief"), ("user", "see it")]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"prompt": "a"}, [("user", "a")]),
        ({"input": ["a", "b"]}, [("user", "ab")]),
        (
            {"instructions": "i", "input": [{"role": "user", "content": [{"text": "a"}]}]},
            [("system", "i"), ("user", "a")],
        ),
    ],
)
def test_other_operations_are_told_alike(body: dict[str, object], said: list[tuple[str, str]]) -> None:
    assert texts(input_messages(json.dumps(body).encode())) == said


@pytest.mark.parametrize("text", ["a" * 100_000, '"\\\n' * 50_000, "\u0001" * 50_000, "\U0001f9f6" * 50_000])
def test_what_is_told_is_bounded(text: str) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": text}] * 50}).encode()
    for told in (input_messages(json.dumps({"prompt": text}).encode()), input_messages(body)):
        assert len(told.encode()) <= MOST
    answer = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    assert len(output_messages(answer).encode()) <= MOST


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"messages":7}', b'{"prompt":[1,2]}', b"[" * 5000, b"\xff"])
def test_what_cannot_be_read_is_not_told(body: bytes) -> None:
    assert input_messages(body) == ""
    assert output_messages(body) == ""


def test_a_role_that_is_none_is_a_users():
    role: object = []
    for _ in range(400):  # deeper than Python writes it
        role = [role]
    body = json.dumps({"messages": [{"role": role, "content": "hello"}]}).encode()
    assert json.loads(input_messages(body)) == [{"role": "user", "parts": [{"type": "text", "content": "hello"}]}]


def test_a_stream_is_told_as_far_as_it_was_kept():
    passed: list[bytes] = []
    beginning = Beginning(passed.append)
    for text in ("one ", "two"):
        for place in (0, 1):
            delta = {"choices": [{"index": place, "delta": {"content": text}}]}
            beginning.feed(b"data: " + json.dumps(delta).encode() + b"\n\n")
    beginning.feed(b'data: {"choices":[{"index":0,"delta":{"content":"cut o')
    assert texts(output_messages(beginning.beginning)) == [("assistant", "one two")] * 2
    assert len(passed) == 5


def test_an_answer_passes_whole_whatever_is_kept():
    passed: list[bytes] = []
    beginning = Beginning(passed.append)
    for _ in range(100):
        beginning.feed(b"x" * 10_000)
    assert len(b"".join(passed)) == 1_000_000
    assert len(beginning.beginning) == 64 * 1024
