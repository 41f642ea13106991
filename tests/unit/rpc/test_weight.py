"""Messages that would burst the memory are refused before they are made."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from weft.inference.v1 import chat_pb2, completions_pb2, embeddings_pb2, inference_pb2

from services.core.errors import Reason, ServiceError
from services.rpc.weight import fields_of, weighed
from tests.testing.typed import messages

ENOUGH = 1 << 30


@given(messages(chat_pb2.ChatRequest.DESCRIPTOR))
def test_all_fields_are_counted(message: chat_pb2.ChatRequest) -> None:
    assert fields_of(message.SerializeToString(), message.DESCRIPTOR, ENOUGH) == count(message)


def count(message: object) -> int:
    """Fields as they stand on the wire: numbers in one pack, each text and message by itself."""
    total = 0
    for field, value in message.ListFields():  # type: ignore[attr-defined]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            total += 3 * len(value)
        elif field.message_type is not None:
            total += sum(1 + count(one) for one in (value if field.is_repeated else [value]))
        else:
            total += len(value) if field.is_repeated and field.type == field.TYPE_STRING else 1
    return total


@pytest.mark.parametrize(
    ("kind", "bomb"),
    [
        (chat_pb2.ChatRequest, b"\x12\x00" * (1 << 20)),
        (chat_pb2.StreamChatRequest, b"\x0a\x80\x80\x80\x01" + b"\x12\x00" * (1 << 20)),
        (inference_pb2.MultiplexRequest, b"\x0a\x00" * (1 << 20)),
        (embeddings_pb2.EmbedRequest, b"\x12\x02\x0a\x00" * (1 << 19)),
    ],
)
def test_bombs(kind: type, bomb: bytes) -> None:
    found = weighed(kind.FromString, streamed=False)(bomb)  # type: ignore[attr-defined]
    assert isinstance(found, ServiceError)
    assert found.reason is Reason.BODY_TOO_LARGE
    with pytest.raises(DecodeError):
        weighed(kind.FromString, streamed=True)(bomb)  # type: ignore[attr-defined]


def test_what_is_large_and_simple_is_taken() -> None:
    texts = completions_pb2.CompleteRequest(prompts=[{"text": "a" * 100}] * 50_000)
    tokens = completions_pb2.CompleteRequest(prompts=[{"tokens": {"ids": range(1 << 20)}}])
    for message in (texts, tokens):
        parse = weighed(completions_pb2.CompleteRequest.FromString, streamed=False)
        assert parse(message.SerializeToString()) == message


@pytest.mark.parametrize("data", [b"\xff" * 100, b"\x12", b"\x12\xff", b"\x09", b"\x0b" * 9, b"\x12\x05\x0a"])
def test_what_is_malformed_is_the_parsers(data: bytes) -> None:
    assert fields_of(data, chat_pb2.ChatRequest.DESCRIPTOR, ENOUGH) <= len(data)
