"""Messages to JSON objects, and back: the tables that are made of the protos, once. Pure."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import msgspec
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from services.core.errors import Reason, ServiceError
from services.typed.nested import Nested
from services.typed.raw import FieldError, members, unique_members
from services.typed.rules import NESTED, RULES
from services.typed.shape import Rules, Shape, Tree

M = TypeVar("M", bound=Message)

_NO_RULES = Rules()


@functools.cache
def shape_of(kind: Descriptor) -> Shape:
    """The shape of a kind of message."""
    rules = RULES.get(kind.name, _NO_RULES)
    if kind.name in NESTED:
        return Nested(kind, rules, shape_of, *NESTED[kind.name])
    return Shape(kind, rules, shape_of)


def request_tree(request: Message) -> Tree:
    """A request as an object for msgspec to encode. Raises `FieldError`."""
    return shape_of(request.DESCRIPTOR).write(request, False)


def request_json(request: Message) -> bytes:
    """A request as OpenAI's JSON. Raises `FieldError`."""
    return msgspec.json.encode(request_tree(request))


def request_of(kind: type[M], body: bytes) -> M:
    """A request from OpenAI's JSON, from which `request_json` makes the same again. Raises BODY_NOT_JSON."""
    try:
        fields = shape_of(kind.DESCRIPTOR).read(unique_members(body.decode()), False)
    except UnicodeDecodeError:
        raise ServiceError(Reason.BODY_NOT_JSON, "The request's body is not UTF-8.") from None
    except FieldError as error:
        raise ServiceError(Reason.BODY_NOT_JSON, f"The request's body {error.why}.") from None
    return kind(**fields)


def answer_json(answer: Message) -> bytes:
    """An answer as OpenAI's JSON. Raises `FieldError`."""
    return msgspec.json.encode(shape_of(answer.DESCRIPTOR).write(answer, True))


def answer_of(kind: type[M], body: bytes) -> M:
    """An answer from OpenAI's JSON. Raises UPSTREAM_BROKEN if it is no JSON object."""
    try:
        found = members(body)
        if found is None:
            raise ServiceError(Reason.UPSTREAM_BROKEN, "The model server's answer is not a JSON object.")
        fields: Any = shape_of(kind.DESCRIPTOR).read(found, True)
    except UnicodeDecodeError:
        raise ServiceError(Reason.UPSTREAM_BROKEN, "The model server's answer is not UTF-8.") from None
    return kind(**fields)
