"""What the router reads of a body, and the splice of another model's name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.errors import Reason, ServiceError
from services.router.body import READ_KEYS, read_body
from services.router.splice import rename_model

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-16", "utf-32-le", "utf-32-be", "utf-32")

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text | st.sampled_from(READ_KEYS), inner, max_size=3),
    max_leaves=8,
)
objects = st.fixed_dictionaries(
    {},
    optional={
        "model": st.none() | text,
        "stream": st.booleans() | values,
        "max_tokens": st.integers(-5, 2**70) | values,
        "max_completion_tokens": values,
        "messages": values,
        "x": values,
    },
)


def encoded(value: object, encoding: str, ascii_only: bool, indent: int | None) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode(encoding)


bodies = st.builds(encoded, objects, st.sampled_from(ENCODINGS), st.booleans(), st.sampled_from([None, 1]))


def as_escapes(key: str, which: int) -> str:
    """A spelling of a key: each set bit of `which` makes an escape of a letter."""
    return "".join(f"\\u{ord(c):04{'xX'[n % 2]}}" if which >> n & 1 else c for n, c in enumerate(key))


def refusal(body: bytes) -> Reason:
    with pytest.raises(ServiceError) as caught:
        read_body(body)
    assert 400 <= caught.value.kind.http < 500
    return caught.value.reason


Read = tuple[str | None, bool, int]


def read(body: bytes) -> Read:
    wanted = read_body(body)
    return wanted.model, wanted.stream, wanted.max_tokens


def expected(value: dict[str, object]) -> Read:
    bounds = [value.get(key) for key in ("max_tokens", "max_completion_tokens", "max_output_tokens")]
    model = value.get("model") or None
    assert model is None or isinstance(model, str)
    bound = next((bound for bound in bounds if type(bound) is int and bound > 0), 0)
    return model, value.get("stream") is True, bound


@given(bodies)
def test_it_reads_what_json_reads(body):
    assert read(body) == expected(json.loads(body))


@given(bodies, text)
def test_a_rename_changes_the_model_and_no_other_byte(body, name):
    renamed = rename_model(body, name)
    before, after = json.loads(body), json.loads(renamed)
    assert after["model"] == name
    after_keys = [key for key in after if key in before]
    assert after_keys == list(before)
    assert repr({**before, "model": name}) == repr({key: after[key] for key in [*before, *after]})


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("space", ["", " ", "\n\t "])
def test_a_rename_byte_for_byte(encoding, space):
    before = f'{space}{{ "n": 9007199254740993.0, "b":18446744073709551615 ,"model"{space}:{space}"'
    after = f'"{space},"a" : 1e2, "n2":-0, "t":"\\u00e9é\\/" }}{space}'
    body = (before + "m\\u006f" + after).encode(encoding)
    assert rename_model(body, "other") == (before + "other" + after).encode(encoding)


def test_a_rename_keeps_the_order_of_bytes_of_a_big_endian_body():
    body = b"\xfe\xff" + '{"model":"é","x":1}'.encode("utf-16-be")
    assert rename_model(body, "b") == b"\xfe\xff" + '{"model":"b","x":1}'.encode("utf-16-be")


@pytest.mark.parametrize(
    ("body", "renamed"),
    [
        (b"{}", b'{"model": "b"}'),
        (b'{"x":{"model":"a"}}', b'{"model": "b", "x":{"model":"a"}}'),
        (b'{"x":{"model":"a"},"model":"a"}', b'{"x":{"model":"a"},"model":"b"}'),
        (b'{"x":"\xff\xed\xa0\x80","model":"a"}', b'{"x":"\xff\xed\xa0\x80","model":"b"}'),
        (b'{"x":%b,"model":"a"}' % (b"1" * 5000), b'{"x":%b,"model":"b"}' % (b"1" * 5000)),
        (b'{"m\\u006fdel":null}', b'{"m\\u006fdel":"b"}'),
    ],
)
def test_renames_in_odd_places(body, renamed):
    assert rename_model(body, "b") == renamed


@given(
    st.sampled_from(READ_KEYS),
    st.integers(0, 2**21 - 1),
    st.integers(0, 2**21 - 1),
    st.sampled_from(ENCODINGS),
    st.sampled_from(["", " ", "\n"]),
)
def test_a_key_that_stands_twice_is_found_in_every_spelling(key, first, second, encoding, space):
    value = {"model": '"a"', "stream": "true"}.get(key, "1")
    members = f'"{as_escapes(key, first)}"{space}:{value},"x":[],"{as_escapes(key, second)}":{space}{value}'
    assert refusal(f"{{{space}{members}{space}}}".encode(encoding)) is Reason.DUPLICATE_KEY


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","tools":[{"model":"b"}],"x":{"model":"c","stream":true}}',
        b'{"x":{"model":"c","model":"d"},"model":"a"}',
        b'{"model":"a","x":"\\"model\\":\\"b\\""}',
        b'{"model":"a","\\"model":1,"model\\"":2,"Model":3,"model\\u0000":4}',
        b'{"model":"a","x":"model","y":["model"]}',
    ],
)
def test_what_looks_like_a_second_model_and_is_none(body):
    assert read(body) == ("a", False, 0)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", Reason.BODY_NOT_JSON),
        (b" \n", Reason.BODY_NOT_JSON),
        (b"model=a", Reason.BODY_NOT_JSON),
        (b'{"model":"a"', Reason.BODY_NOT_JSON),
        (b'{"model":"a"}{}', Reason.BODY_NOT_JSON),
        (b'{"model":"a",}', Reason.BODY_NOT_JSON),
        (b'{"model":"\xff"}', Reason.BODY_NOT_JSON),
        ('{"model":"ä"}'.encode("latin-1"), Reason.BODY_NOT_JSON),
        (b"\x1f\x8b\x08\x00", Reason.BODY_NOT_JSON),
        (b'{"max_tokens":' + b"1" * 5000 + b"}", Reason.BODY_NOT_JSON),
        (b"null", Reason.BODY_NOT_OBJECT),
        (b"[]", Reason.BODY_NOT_OBJECT),
        (b'"model"', Reason.BODY_NOT_OBJECT),
        (b"1", Reason.BODY_NOT_OBJECT),
        (b"true", Reason.BODY_NOT_OBJECT),
        (b"NaN", Reason.BODY_NOT_OBJECT),
        (b"[" * 10_000 + b"]" * 10_000, Reason.BODY_TOO_DEEP),
        (b'{"model":"a","x":' + b"[" * 10_000 + b"]" * 10_000 + b"}", Reason.BODY_TOO_DEEP),
        (b'{"x":' * 10_000 + b"1" + b"}" * 10_000, Reason.BODY_TOO_DEEP),
        (b"[" * 10_000, Reason.BODY_TOO_DEEP),
        (b'{"model":1}', Reason.FIELD_INVALID),
        (b'{"model":["a"]}', Reason.FIELD_INVALID),
        (b'{"model":false}', Reason.FIELD_INVALID),
        (b'{"model":"\\ud800"}', Reason.FIELD_INVALID),
        (b'{"model":"a\\udfffb"}', Reason.FIELD_INVALID),
    ],
)
def test_a_body_that_routing_cannot_read_is_refused(body, reason):
    assert refusal(body) is reason


@pytest.mark.parametrize("x", [b"NaN", b"-Infinity", b"1e999", b'"\\ud800"', b'"\xff"', b"1" * 5000])
def test_what_is_vllms_to_judge_passes(x):
    assert read(b'{"model":"a","x":%b}' % x) == ("a", False, 0)


@pytest.mark.parametrize(
    ("fields", "bound"),
    [
        ('"max_tokens":5', 5),
        ('"max_completion_tokens":6', 6),
        ('"max_output_tokens":7', 7),
        ('"max_tokens":null,"max_completion_tokens":6', 6),
        ('"max_tokens":-1', 0),
        ('"max_tokens":true', 0),
        ('"max_tokens":1.5', 0),
        ('"max_tokens":"9"', 0),
    ],
)
def test_the_bound_of_an_answer(fields, bound):
    assert read_body(f"{{{fields}}}".encode()).max_tokens == bound


@given(st.binary(max_size=40) | st.text('{}[]":,\\u0d18model \n', max_size=40).map(str.encode))
def test_a_wild_body_never_crashes(body):
    try:
        read_body(body)
    except ServiceError:
        return
    rename_model(body, "b")
