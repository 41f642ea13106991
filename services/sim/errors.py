"""Answers that refuse, in vLLM's two shapes (vLLM 0.32)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec

_TYPES = {
    HTTPStatus.BAD_REQUEST: "BadRequestError",
    HTTPStatus.NOT_FOUND: "NotFoundError",
    HTTPStatus.INTERNAL_SERVER_ERROR: "InternalServerError",
    HTTPStatus.NOT_IMPLEMENTED: "NotImplementedError",
    HTTPStatus.SERVICE_UNAVAILABLE: "ServiceUnavailableError",
}


class Refusal(Exception):  # noqa: N818 - it is an answer, not a failure of the simulator
    """A request that is answered with `status` and the JSON `body`, and no more."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = msgspec.json.encode(body)


def api_error(status: int, message: str, param: str | None = None, kind: str | None = None) -> Refusal:
    """vLLM's own envelope. `kind` is its `type`, by default the one that vLLM gives to the status."""
    named = kind or _TYPES.get(HTTPStatus(status)) or HTTPStatus(status).phrase
    return Refusal(status, {"error": {"message": message, "type": named, "param": param, "code": status}})


def detail(status: int, message: str) -> Refusal:
    """The envelope of vLLM's web framework: unknown routes, wrong methods, unreadable bytes."""
    return Refusal(status, {"detail": message})


def bad_parameter(name: str, value: Any, message: str) -> Refusal:
    """A value that vLLM's own checks refuse."""
    return api_error(400, f"{message} (parameter={name}, value={value})", name)


def invalid_field(location: str, kind: str, message: str, value: Any, context: str = "") -> Refusal:
    """A value that the schema of the body refuses, in the words of pydantic and the shape of vLLM."""
    named = f"<{type(value).__name__} of {len(value)} items>" if isinstance(value, dict | list) else str(value)[:200]
    entry = f"{{'type': '{kind}', 'loc': '{location}', 'msg': '{message}', 'input': '{named}'{context}}}"
    return api_error(400, f"1 validation error:\n  {entry}", location, "Bad Request")


def unknown_model(model: str, served: tuple[str, ...], *, aliases: bool = True) -> Refusal:
    """vLLM names the models that it serves, except on pooling routes."""
    if not aliases:
        return api_error(404, f"The model `{model}` does not exist.")
    return api_error(404, f"The model `{model}` does not exist. Valid aliases: {', '.join(served)}.", "model")


def unauthorized() -> Refusal:
    """No key, or a wrong one."""
    return Refusal(401, {"error": "Unauthorized"})


def busy() -> Refusal:
    """As many calls wait as may."""
    message = "The engine is currently busy and cannot accept new requests."
    return api_error(503, f"{message} Please try again later or on a different instance.")
