"""An answer that is no event stream, for a client who has been promised one by a comment: it travels as an error event,
in the shape from which the clients of each operation raise; pure.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec

from services.core.errors import Reason, ServiceError
from services.core.inference import Head
from services.router.targets import Server

_LONGEST_ANSWER: Final = 64 * 1024
"""Bytes of an answer that becomes an error event: vLLM's errors are shorter."""
_LONGEST_TEXT: Final = 500


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

    @property
    def room(self) -> int:
        """Bytes that its client takes now."""

    def last(self, event: bytes) -> None:
        """The answer ends with this event."""

    def fail(self, error: ServiceError) -> None:
        """The answer broke off, or does not fit at all."""

    def freed(self, server: Server) -> None:
        """A server that was full has room again."""


class Misfit:
    """Takes an answer that is no event stream, for a client who has been promised one: the owner of the attempt from
    its first byte on.
    """

    def __init__(self, owner: MisfitOwner, operation: str, head: Head, credit: int) -> None:
        """`credit` is how much the server may send."""
        self._owner = owner
        self._operation = operation
        self._head = head
        self._body = bytearray()
        self._room = min(_LONGEST_ANSWER, credit)

    def data(self, chunk: bytes) -> None:
        """See `AttemptOwner.data`."""
        self._body += chunk
        if len(self._body) >= self._room:
            self._tell()

    def end(self) -> None:
        """See `AttemptOwner.end`."""
        self._tell()

    def _tell(self) -> None:
        """The answer is there, or as much of it as is looked at: it becomes the stream's last event."""
        status, event = self._head.status, None
        if status >= 400:
            event = error_event(self._operation, status, bytes(self._body), self._owner.room)
        if event is not None:
            self._owner.last(event)
            return
        lacks = "" if status >= 400 else " and no stream of events"
        message = f"The model server answered with status {status}{lacks}."
        self._owner.fail(ServiceError(Reason.UPSTREAM_BROKEN, message))

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
