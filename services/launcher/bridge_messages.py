"""One call as one inference task, and back: the contract of `functions/inference`; pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from services.core.errors import Reason, ServiceError
from services.core.headers import TO_CLIENT, select, to_upstream
from services.core.inference import Head, Request
from services.globus.errors import GlobusError, Kind

Answer = tuple[Head, bytes]

_AT_THE_NODE: Final = {
    "vllm_unreachable": Reason.UPSTREAM_UNREACHABLE,
    "timeout": Reason.TOTAL_TIMEOUT,
    "result_too_large": Reason.BODY_TOO_LARGE,  # the same elsewhere, where calls are tasks, and computed again
    "bad_request": Reason.ARGUMENT_INVALID,
}


def to_payload(
    request: Request, *, endpoint: str, slot: int, api_port: int, timeout: float, wait: float
) -> dict[str, Any]:
    """What the function is sent; durations in seconds. Raises HEADER_INVALID for a header that none can have."""
    payload: dict[str, Any] = {
        "endpoint": endpoint,
        "slot": slot,
        "operation": request.operation,
        "method": request.method or "POST",
        "headers": [list(header) for header in to_upstream(request)],
        "timeout_s": round(timeout, 3),
        "wait_s": round(wait, 3),
        "api_port": api_port,
    }
    if request.body.isascii():
        payload["body"] = request.body.decode("ascii")
    else:  # JSON would escape each character of it, into more bytes than base64 needs
        payload["body_base64"] = base64.b64encode(request.body).decode("ascii")
    return payload


def from_result(result: Any) -> Answer:
    """The answer: vLLM's own, whatever its status. Raises `ServiceError` for what the function says in its stead."""
    if isinstance(result, Mapping):
        if isinstance(error := result.get("error"), Mapping):
            reason = _AT_THE_NODE.get(str(error.get("kind")), Reason.UPSTREAM_BROKEN)
            raise ServiceError(reason, str(error.get("message") or "") or None)
        try:
            return _answer(result)
        except (KeyError, TypeError, ValueError, binascii.Error):
            pass
    message = "The inference task gave back something that is no answer; its function is not the one of this Weft."
    raise ServiceError(Reason.UPSTREAM_BROKEN, message)


def _answer(result: Mapping[str, Any]) -> Answer:
    status = int(result["status"])
    if not 100 <= status <= 599:
        raise ValueError(status)
    headers = tuple((str(name).lower(), str(value)) for name, value in result["headers"])
    body = str(result["body"]).encode() if "body" in result else base64.b64decode(result["body_base64"], validate=True)
    return Head(status, select(headers, TO_CLIENT - {"content-length"})), body


def from_globus(error: GlobusError, endpoint: str) -> ServiceError:
    """What a failed task means to the caller. The remedy is for administrators, and stays in the log."""
    match error.kind:
        case Kind.TOO_LARGE:
            return ServiceError(Reason.BODY_TOO_LARGE, str(error))
        case Kind.TASK_FAILED | Kind.OTHER:
            return ServiceError(Reason.UPSTREAM_BROKEN, f"The task of this call at '{endpoint}' failed.")
    return ServiceError(Reason.UPSTREAM_UNREACHABLE, f"'{endpoint}' cannot be reached: {error.sentence}")
