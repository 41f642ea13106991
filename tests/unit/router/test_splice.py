"""Splices change the values that they are to change, and no other byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import UNSET

from services.core.inference import Request
from services.router.body import read_body
from services.router.outward import ask_for_usage, outward_body
from services.router.splice import Edit, members, splice
from services.router.targets import Server, Target
from tests.testing.streams import Answerer

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32-le")

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | text,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(text | st.sampled_from(["n", "model"]), inner, max_size=3)
    ),
    max_leaves=6,
)
options = st.fixed_dictionaries(
    {},
    optional={
        "include_usage": st.booleans() | st.none() | st.sampled_from([0, 1, "true", "False", "maybe", []]),
        "continuous_usage_stats": st.booleans() | st.none(),
        "x": values,
    },
)
objects = st.fixed_dictionaries(
    {"messages": values},
    optional={
        "model": text,
        "stream": st.just(True),
        "max_tokens": st.integers(0, 10**6) | st.none(),
        "stream_options": options | st.none(),
        "x": values,
        "include_usage": values,
    },
)


@st.composite
def bodies(draw: Any) -> bytes:
    value = draw(objects)
    keys = draw(st.permutations(sorted(value)))
    written = json.dumps(
        {key: value[key] for key in keys},
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 1])),
        separators=draw(st.sampled_from([(",", ":"), (" , ", " : ")])),
    )
    return written.encode(draw(st.sampled_from(ENCODINGS)))


def edits_of(body: bytes, **changes: Any) -> list[Edit]:
    fields = read_body(body).fields
    return [Edit(key, json.dumps(value), there=getattr(fields, key) is not UNSET) for key, value in changes.items()]


@given(bodies(), st.integers(1, 10**9), text)
def test_values_are_what_is_meant_and_all_others_what_they_were(body, bound, model):
    plain = read_body(body).plain
    after = splice(body, edits_of(body, max_tokens=bound, model=model), plain=plain)
    value, spliced = json.loads(body), json.loads(after)
    assert spliced == {**value, "max_tokens": bound, "model": model}
    assert [key for key in spliced if key in value] == list(value)
    assert splice(after, edits_of(after, max_tokens=bound, model=model), plain=plain) == after


@given(bodies(), st.integers(1, 10**9))
def test_every_byte_outside_the_value_is_as_it_was(body, bound):
    wanted = read_body(body)
    after = splice(body, edits_of(body, max_tokens=bound), plain=wanted.plain)
    if wanted.fields.max_tokens is not UNSET:
        start = next(i for i in range(len(body) + 1) if body[:i] != after[:i]) - 1 if after != body else 0
        common = len(after) - start
        while common and not body.endswith(after[-common:]):
            common -= 1
        assert len(body) - start - common <= 4 * 8, "no more than the number has changed"
    else:
        added = len(after) - len(body)
        assert any(after[:i] + after[i + added :] == body for i in range(len(body) + 1)), "one piece is added"


@given(bodies())
def test_the_quick_way_and_the_slow_one_agree(body):
    wanted = read_body(body)
    if wanted.plain:
        edits = [*edits_of(body, max_tokens=7, model="m"), *ask_for_usage(wanted.fields)]
        assert splice(body, edits, plain=True) == splice(body, edits, plain=False)


@given(bodies())
@example(b'{"messages":[],"stream_options":{"include_usage":false,"continuous_usage_stats":true},"include_usage":1}')
@example(b'{"messages":[],"stream_options": {} }')
@example(b'{"messages":[],"x":{"stream_options":{"include_usage":true}}}')
def test_usage_is_asked_for_at_the_end_alone_where_it_was_not(body):
    wanted = read_body(body)
    edits = ask_for_usage(wanted.fields)
    value = json.loads(body)
    asked = value.get("stream_options")
    after = json.loads(splice(body, edits, plain=wanted.plain))
    if (
        asked is not None
        and asked.get("include_usage") in (True, 1, "true", "maybe", [])
        and asked["include_usage"] != 0
    ):
        assert after == value
        return
    expected = {**(asked or {}), "include_usage": True}
    if expected.get("continuous_usage_stats"):
        expected["continuous_usage_stats"] = False
    assert after == {**value, "stream_options": expected}


@pytest.mark.parametrize(
    ("body", "after"),
    [
        (b'{"messages":[]}', b'{"stream_options": {"include_usage": true}, "messages":[]}'),
        (b' { "messages":[],"stream_options" : null}', b' { "messages":[],"stream_options" : {"include_usage": true}}'),
        (
            b'{"messages":[],"stream_options":{"include_usage" :false,"y":1e5}}',
            b'{"messages":[],"stream_options":{"include_usage" :true,"y":1e5}}',
        ),
        (
            b'{"messages":[],"stream_options":{"y":2}}',
            b'{"messages":[],"stream_options":{"include_usage": true, "y":2}}',
        ),
        (b'{"messages":[],"stream_options":[]}', b'{"messages":[],"stream_options":[]}'),
        (b'{"x":1}', b'{"x":1}'),
        (
            b'{"messages":[],"stream_\\u006fptions":{"include_usage":0}}',
            b'{"messages":[],"stream_\\u006fptions":{"include_usage":true}}',
        ),
    ],
)
def test_how_usage_is_asked_for(body, after):
    wanted = read_body(body)
    assert splice(body, ask_for_usage(wanted.fields), plain=wanted.plain) == after


def target(framework: str = "", served: str = "m") -> Target:
    return Target(Server("clusters/one/endpoints/e", "i", Answerer()), "one", framework, served)


@pytest.mark.parametrize(
    ("operation", "framework", "body", "adds"),
    [
        ("/v1/chat/completions", "", b'{"messages":[],"stream":true}', True),
        ("/v1/chat/completions", "vllm", b'{"messages":[],"stream":true}', True),
        ("/v1/completions", "vllm", b'{"prompt":"a","stream":true}', True),
        ("/v1/chat/completions", "openai", b'{"messages":[],"stream":true}', False),
        ("/v1/chat/completions", "", b'{"messages":[],"stream":false}', False),
        ("/v1/chat/completions", "", b'{"messages":[]}', False),
        ("/v1/responses", "", b'{"input":"a","stream":true}', False),
        ("/v1/messages", "", b'{"messages":[],"stream":true}', False),
    ],
)
def test_which_calls_are_asked_for_their_usage(operation, framework, body, adds):
    after, added = outward_body(Request(operation, (), body), read_body(body), target(framework, ""), ())
    assert (added, after != body) == (adds, adds)


def test_a_body_that_nothing_is_to_be_changed_in_is_the_same_object():
    body = b'{"model":"m","messages":[]}'
    assert outward_body(Request("/v1/chat/completions", (), body), read_body(body), target(), ())[0] is body


@given(bodies())
def test_the_members_of_a_body(body):
    value = json.loads(body)
    plain = json.dumps(value)
    assert {member.key: json.loads(plain[member.start : member.end]) for member in members(plain)} == value
