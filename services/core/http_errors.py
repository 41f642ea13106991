"""The domain's errors as HTTP, in the shape that the client of each route expects.

What vLLM would also have to say (the body is not JSON, the model or the route is unknown) is said in vLLM's shape;
what only Weft says, in OpenAI's (https://platform.openai.com/docs/guides/error-codes); and under `/v1/messages` all in
Anthropic's (https://docs.anthropic.com/en/api/errors).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from services.core.errors import Reason, ServiceError

_VALIDATION: Final = frozenset(
    {
        Reason.BODY_NOT_JSON,
        Reason.BODY_NOT_OBJECT,
        Reason.DUPLICATE_KEY,
        Reason.FIELD_INVALID,
        Reason.MODEL_REQUIRED,
    }
)
"""What vLLM calls a `Bad Request`, in its validation's words."""

_POOLING: Final = frozenset(
    {"/v1/embeddings", "/pooling", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank", "/v2/embed"}
)
"""Where vLLM names no `param` for an unknown model."""

_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """A whole HTTP answer."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def render(error: ServiceError, operation: str) -> ErrorAnswer:
    """The error as the answer to a request for the operation."""
    headers = [(b"content-type", b"application/json")]
    if error.reason is Reason.METHOD_NOT_ALLOWED and error.param:
        headers.append((b"allow", error.param.encode("latin-1", "replace")))
    if error.kind.http == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.retry_after is not None:
        # Whole seconds (RFC 9110, 10.2.3), and at least one, or a client would come back at once.
        headers.append((b"retry-after", str(max(1, round(error.retry_after))).encode()))
    headers.extend((name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in error.headers)
    return ErrorAnswer(error.kind.http, tuple(headers), _encode(_body(error, operation)))


def render_event(error: ServiceError, operation: str) -> bytes:
    """The error as the last server-sent event of a stream that has begun; no `[DONE]` follows it."""
    body = _body(error, operation)
    if _is_anthropic(operation):
        return b"event: error\ndata: " + _encode(body) + b"\n\n"
    if operation == "/v1/responses":
        event = {"type": "error", "code": error.kind.code, "message": error.message, "param": error.param, **body}
        return b"event: error\ndata: " + _encode(event) + b"\n\n"
    return b"data: " + _encode(body) + b"\n\n"


def _encode(body: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:  # The message quotes a client's lone surrogates, which only escapes can hold.
        return json.dumps(body, separators=(",", ":")).encode()


def _body(error: ServiceError, operation: str) -> dict[str, Any]:
    reason, status = error.reason, error.kind.http
    if _is_anthropic(operation):
        kind = "NotFoundError" if reason is Reason.MODEL_NOT_FOUND else _ANTHROPIC_TYPES.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": error.message}}
    if reason is Reason.OPERATION_NOT_FOUND:
        return {"detail": "Not Found"}
    if reason is Reason.METHOD_NOT_ALLOWED:
        return {"detail": "Method Not Allowed"}
    if reason is Reason.BODY_TOO_DEEP or (reason is Reason.BODY_NOT_JSON and error.param is None):
        return {"detail": "There was an error parsing the body"}
    if reason is Reason.CONTENT_ENCODING_UNSUPPORTED:  # To vLLM, which ignores the header, a body that it cannot parse.
        return {"detail": error.message}
    if reason in _VALIDATION:
        return _envelope(error.message, "Bad Request", error.param, status)
    if reason is Reason.MODEL_NOT_FOUND:
        return _envelope(error.message, "NotFoundError", None if operation in _POOLING else "model", status)
    return _envelope(error.message, error.kind.type, error.param, error.kind.code)


def _envelope(message: str, kind: str, param: str | None, code: int | str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _is_anthropic(operation: str) -> bool:
    return operation == "/v1/messages" or operation.startswith("/v1/messages/")
