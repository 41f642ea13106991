"""Errors as HTTP, in the shape that each route's clients read."""

import json
from typing import Any

import pytest

from services.core.errors import CATALOGUE, Reason, ServiceError
from services.core.http_errors import render, render_event

CHAT, EMBED, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"
KINDS = [CHAT, EMBED, RESPONSES, MESSAGES, "/v1/messages/count_tokens", "/tokenize", "/nothing", ""]


def openai(message: str, kind: str, param: str | None, code: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def anthropic(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


UNREADABLE = {"detail": "There was an error parsing the body"}
SHAPES: list[tuple[ServiceError, str, int, dict[str, Any]]] = [
    (ServiceError(Reason.BODY_NOT_JSON, "m", param="body.0"), CHAT, 400, openai("m", "Bad Request", "body.0", 400)),
    (ServiceError(Reason.BODY_NOT_JSON, "m"), CHAT, 400, UNREADABLE),
    (ServiceError(Reason.BODY_TOO_DEEP), CHAT, 400, UNREADABLE),
    (ServiceError(Reason.BODY_TOO_DEEP, "m"), MESSAGES, 400, anthropic("invalid_request_error", "m")),
    (
        ServiceError(Reason.MODEL_REQUIRED, "m", param="body.model"),
        CHAT,
        400,
        openai("m", "Bad Request", "body.model", 400),
    ),
    (ServiceError(Reason.MODEL_NOT_FOUND, "m"), CHAT, 404, openai("m", "NotFoundError", "model", 404)),
    (ServiceError(Reason.MODEL_NOT_FOUND, "m"), EMBED, 404, openai("m", "NotFoundError", None, 404)),
    (ServiceError(Reason.MODEL_NOT_FOUND, "m"), MESSAGES, 404, anthropic("NotFoundError", "m")),
    (ServiceError(Reason.OPERATION_NOT_FOUND), CHAT, 404, {"detail": "Not Found"}),
    (ServiceError(Reason.METHOD_NOT_ALLOWED, "m", param="POST"), CHAT, 405, {"detail": "Method Not Allowed"}),
    (
        ServiceError(Reason.METHOD_NOT_ALLOWED, "m", param="POST"),
        MESSAGES,
        405,
        anthropic("invalid_request_error", "m"),
    ),
    (ServiceError(Reason.CREDENTIAL_MISSING, "m"), MESSAGES, 401, anthropic("authentication_error", "m")),
    (ServiceError(Reason.MODEL_FORBIDDEN, "m"), MESSAGES, 403, anthropic("permission_error", "m")),
    (ServiceError(Reason.BODY_TOO_LARGE, "m"), MESSAGES, 413, anthropic("request_too_large", "m")),
    (ServiceError(Reason.NO_WORKER, "m"), MESSAGES, 503, anthropic("overloaded_error", "m")),
    (ServiceError(Reason.INTERNAL, "m"), MESSAGES, 500, anthropic("api_error", "m")),
    (ServiceError(Reason.NO_WORKER, "m"), CHAT, 503, openai("m", "server_error", None, "no_worker")),
]


@pytest.mark.parametrize(("error", "operation", "status", "body"), SHAPES)
def test_shapes(error: ServiceError, operation: str, status: int, body: dict[str, Any]) -> None:
    answer = render(error, operation)
    assert answer.status == status
    assert answer.body == json.dumps(body, separators=(",", ":")).encode()  # the order of fields too
    assert (b"content-type", b"application/json") in answer.headers


@pytest.mark.parametrize("operation", KINDS)
@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_every_reason_has_a_shape_on_every_route(reason: Reason, operation: str) -> None:
    answer = render(ServiceError(reason), operation)
    told = json.loads(answer.body)
    assert answer.status == CATALOGUE[reason].http
    if operation.startswith(MESSAGES):
        assert (told["type"], told["error"]["message"]) == ("error", CATALOGUE[reason].sentence)
    else:
        assert "detail" in told or list(told["error"]) == ["message", "type", "param", "code"]


@pytest.mark.parametrize("operation", KINDS)
@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_every_reason_is_one_event(reason: Reason, operation: str) -> None:
    event = render_event(ServiceError(reason), operation)
    assert event.endswith(b"\n\n")
    assert event.count(b"\n\n") == 1
    assert b"[DONE]" not in event
    named, _, data = event.decode().rpartition("data: ")
    assert named == ("event: error\n" if operation == RESPONSES or operation.startswith(MESSAGES) else "")
    assert json.loads(data)


def test_events() -> None:
    error = ServiceError(Reason.WORKER_LOST, "Gone.")
    inner = {"message": "Gone.", "type": "server_error", "param": None, "code": "worker_lost"}
    assert json.loads(render_event(error, CHAT).removeprefix(b"data: ")) == {"error": inner}
    told = json.loads(render_event(error, RESPONSES).removeprefix(b"event: error\ndata: "))
    assert {"type": "error", "code": "worker_lost", "message": "Gone.", "param": None}.items() <= told.items()
    told = json.loads(render_event(error, MESSAGES).removeprefix(b"event: error\ndata: "))
    assert told == anthropic("api_error", "Gone.")


def test_headers() -> None:
    assert (b"allow", b"GET") in render(ServiceError(Reason.METHOD_NOT_ALLOWED, param="GET"), CHAT).headers
    assert (b"www-authenticate", b"Bearer") in render(ServiceError(Reason.CREDENTIAL_EXPIRED), CHAT).headers
    assert b"www-authenticate" not in dict(render(ServiceError(Reason.MODEL_FORBIDDEN), CHAT).headers)
    for seconds, told in ((0.05, b"1"), (1.0, b"1"), (4.6, b"5")):
        assert (b"retry-after", told) in render(ServiceError(Reason.NO_WORKER, retry_after=seconds), CHAT).headers


@pytest.mark.parametrize("operation", [CHAT, RESPONSES, MESSAGES])
def test_what_utf_8_cannot_hold_is_told_in_escapes(operation: str) -> None:
    error = ServiceError(Reason.MODEL_NOT_FOUND, "The model `\ud800` does not exist.")
    assert b"\\ud800" in render(error, operation).body
    assert b"\\ud800" in render_event(error, operation)
