"""What a streamed call hears before its first byte: comments in the stream that tell how things stand; pure.

The first one commits the status 200. A server's answer that is no event stream then travels as an error event, in the
shape from which the clients of each operation raise.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec

from services.core.errors import ServiceError
from services.core.inference import Head
from services.router.targets import Server

STREAMED: Final = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"})
"""The operations whose stream is one of server-sent events."""

EVENT_STREAM: Final = Head(200, (("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache")))

_LONGEST_ANSWER: Final = 64 * 1024
"""Bytes of an answer that becomes an error event: vLLM's errors are shorter."""
_LONGEST_TEXT: Final = 500


def comment(word: str, detail: str) -> bytes:
    """A comment, which clients of event streams pass over (https://html.spec.whatwg.org/multipage/server-sent-
    events.html).
    """
    return f": weft {word} — {' '.join(detail.split())}\n\n".encode("utf-8", "replace")


def is_event_stream(head: Head) -> bool:
    """Whether an answer can go on where comments have begun."""
    return head.status == 200 and (head.header("content-type") or "").startswith("text/event-stream")


def error_event(operation: str, status: int, body: bytes, room: int) -> bytes | None:
    """A server's answer as the last event of a stream, in its own bytes where its clients raise from them; None if not
    even its beginning has room.
    """
    anthropic = operation.startswith("/v1/messages")
    name = b"event: error\n" if anthropic or operation == "/v1/responses" else b""
    value = _decoded(body)
    raises = isinstance(value, dict) and bool(value.get("error")) and (not name or value.get("type") == "error")
    message = _message(value, body)
    event = _event(name, body if raises else _wrapped(operation, status, message))
    if len(event) > room:
        event = _event(name, _wrapped(operation, status, message[: room // 8]))
    return event if len(event) <= room else None


def _event(name: bytes, body: bytes) -> bytes:
    lines = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return name + b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def _message(value: Any, body: bytes) -> str:
    """The sentence in an answer, wherever it stands in it."""
    if isinstance(value, dict):
        error = value.get("error")
        inner = error.get("message") if isinstance(error, dict) else error
        for found in (inner, value.get("message"), value.get("detail")):
            if isinstance(found, str) and found:
                return found[:_LONGEST_TEXT]
    return body.decode("utf-8", "replace")[:_LONGEST_TEXT]


def _wrapped(operation: str, status: int, message: str) -> bytes:
    kind = "invalid_request_error" if 400 <= status < 500 else "server_error"
    if operation.startswith("/v1/messages"):
        kind = "invalid_request_error" if 400 <= status < 500 else "api_error"
        return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})
    error = {"message": message, "type": kind, "param": None, "code": status}
    if operation == "/v1/responses":
        return msgspec.json.encode({**error, "type": "error", "code": str(status), "error": error})
    return msgspec.json.encode({"error": error})


class MisfitOwner(Protocol):
    """What a `Misfit` needs of its call."""

    def misfit(self, head: Head, body: bytes) -> None:
        """The answer is there, or as much of it as is looked at."""

    def fail(self, error: ServiceError) -> None:
        """It broke off."""

    def freed(self, server: Server) -> None:
        """A server that was full has room again."""


class Misfit:
    """Takes an answer that is no event stream, for a client who has been promised one: the owner of the attempt from
    its first byte on.
    """

    def __init__(self, owner: MisfitOwner, head: Head, credit: int) -> None:
        self._owner = owner
        self._head = head
        self._body = bytearray()
        self._room = min(_LONGEST_ANSWER, credit)

    def data(self, chunk: bytes) -> None:
        """See `AttemptOwner.data`."""
        self._body += chunk
        if len(self._body) >= self._room:
            self._owner.misfit(self._head, bytes(self._body))

    def end(self) -> None:
        """See `AttemptOwner.end`."""
        self._owner.misfit(self._head, bytes(self._body))

    def fail(self, error: ServiceError) -> None:
        """See `AttemptOwner.fail`."""
        self._owner.fail(error)

    def freed(self, server: Server) -> None:
        """See `AttemptOwner.freed`."""
        self._owner.freed(server)

    def attempt_failed(self, attempt: object, error: ServiceError) -> None:
        """See `AttemptOwner.attempt_failed`; the first byte has come, so that this cannot be."""
        self._owner.fail(error)

    def first_byte(self, head: Head) -> None:
        """See `AttemptOwner.first_byte`; it has come already."""
