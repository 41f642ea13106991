"""What a model server answers instead of an answer, as an error of the catalogue. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from services.core.errors import GrpcCode, Reason, ServiceError
from services.core.inference import Head

_CODES: Final[Mapping[int, GrpcCode]] = {
    401: GrpcCode.PERMISSION_DENIED,  # The endpoint's credential is at fault: the caller's has been accepted.
    403: GrpcCode.PERMISSION_DENIED,
    404: GrpcCode.NOT_FOUND,
    405: GrpcCode.UNIMPLEMENTED,
    408: GrpcCode.DEADLINE_EXCEEDED,
    409: GrpcCode.ABORTED,
    413: GrpcCode.RESOURCE_EXHAUSTED,
    429: GrpcCode.RESOURCE_EXHAUSTED,
    501: GrpcCode.UNIMPLEMENTED,
}
_RETRY_AFTER: Final = 1.0
"""Seconds, where a server that is full does not say."""
_LONGEST: Final = 2000
"""Characters of a message or a value: a status travels in headers, of which gRPC takes 8 KiB by default."""


def refusal(head: Head, body: bytes) -> ServiceError:
    """The error that an answer with a status of 400 or more is."""
    return _error(head.status, _decoded(body), head.header("retry-after"))


def refusal_event(data: bytes, raw: Raw) -> ServiceError:
    """The error that an event of a stream tells; `raw` is its member of that name."""
    try:
        error: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        error = None
    code = error.get("code") if isinstance(error, dict) else None
    status = code if type(code) is int and 400 <= code <= 599 else 500
    return _error(status, _decoded(data), None)


def _error(status: int, value: Any, retry_after: str | None) -> ServiceError:
    error = value.get("error", value) if isinstance(value, dict) else value
    told: dict[str, Any] = error if isinstance(error, dict) else {"message": error}
    message = next((text for key in ("message", "detail") if isinstance(text := told.get(key), str) and text), None)
    refused = status < 500 or status == 501
    info = [("http_status", str(status))]
    for key in ("type", "code", "param"):
        if isinstance(one := told.get(key), str | int):
            info.append((key, str(one)[:_LONGEST]))
    param = told.get("param")
    return ServiceError(
        Reason.REQUEST_REFUSED if refused else Reason.UPSTREAM_BROKEN,
        message[:_LONGEST] if message else f"The model server answered with status {status}.",
        param=param[:_LONGEST] if isinstance(param, str) and param else None,
        retry_after=_seconds(retry_after, status),
        grpc=_CODES.get(status, GrpcCode.INVALID_ARGUMENT) if refused else None,
        info=tuple(info),
    )


def _seconds(retry_after: str | None, status: int) -> float | None:
    if retry_after is not None and retry_after.isdecimal() and len(retry_after) < 7:
        return float(retry_after)
    return _RETRY_AFTER if status == 429 else None


def _decoded(body: bytes) -> Any:
    text = body.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.strip()[:_LONGEST]
