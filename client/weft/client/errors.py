"""What a call may end with instead of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from weft.errors.v1 import errors_pb2

ERROR_METADATA: Final = "weft-error-bin"
"""The trailing metadata with the `weft.errors.v1.Error`. It says what `grpc-status-details-bin` says, and is read with
the stubs alone: google.rpc's are in a package of their own."""

_NEVER_SENT: Final = ("failed to connect to all addresses", "DNS resolution failed", "empty address list")
"""How gRPC says that it never had a connection: it has no code of its own for that."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that was reached: whose (`users/alice`), and which, in words (`1000 tokens per minute`)."""

    subject: str
    description: str


class WeftError(Exception):
    """A call failed.

    `reason` is a name of docs/errors.md (`MODEL_NOT_FOUND`), as in `google.rpc.ErrorInfo`; where it was not Weft that
    refused, but a proxy or gRPC itself, it is the name of the status (`UNAVAILABLE`). `field` is the request's field
    at fault, empty if none. `retry_after` is in seconds, None if nobody said. `request_id` finds the call in the mesh's
    logs and traces. `info` tells more of what the model server refused: its `http_status`, and its own `type`, `code`
    and `param`.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        field: str = "",
        retry_after: float | None = None,
        limits: tuple[Limit, ...] = (),
        request_id: str = "",
        info: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(reason, message)  # by which it is made again where it is unpickled
        self.reason = reason
        self.message = message
        self.code = code
        self.field = field
        self.retry_after = retry_after
        self.limits = limits
        self.request_id = request_id
        self.info = dict(info or {})

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" + (f" (request {self.request_id})" if self.request_id else "")


class InvalidRequest(WeftError):  # noqa: N818 - named for what happened, as all below
    """The request is wrong: `field` says where. It will never succeed as it is."""


class NotAllowed(WeftError):  # noqa: N818
    """The credential is missing, unknown or expired, or does not allow this."""


class RateLimited(WeftError):  # noqa: N818
    """One of `limits` is reached; `retry_after` says when there is room again."""


class Unavailable(WeftError):  # noqa: N818
    """No server could take the call, or the one that had it was lost."""


class TimedOut(WeftError):  # noqa: N818
    """The deadline passed: the call's own, or one of the mesh."""


class Truncated(WeftError):  # noqa: N818
    """A stream ended without its `end`: what came is not the whole answer."""


def from_rpc(failed: grpc.RpcError, request_id: str = "") -> WeftError:
    """The error of a failed RPC, of either kind of channel."""
    call: Any = failed  # both kinds have a call's methods, and say so nowhere
    code: grpc.StatusCode = call.code()
    details: str = call.details() or ""
    trailing = dict(call.trailing_metadata() or ())
    request_id = trailing.get("x-request-id") or request_id
    ours = _parse(trailing.get(ERROR_METADATA))
    if ours is None:
        reason = _reason_without(code, details)
        return _kind(reason, code, None)(reason, details or code.name, code=code, request_id=request_id)
    reason = _name(ours.reason)
    retry_after = ours.retry_after.ToMilliseconds() / 1000 if ours.HasField("retry_after") else None
    return _kind(reason, code, retry_after)(
        reason,
        ours.message or details,
        code=code,
        field=ours.param,
        retry_after=retry_after,
        limits=tuple(Limit(one.subject, one.description) for one in ours.violations),
        request_id=request_id,
        info=ours.info,
    )


def _parse(value: object) -> errors_pb2.Error | None:
    try:
        return errors_pb2.Error.FromString(value) if isinstance(value, bytes) else None
    except DecodeError:
        return None


def _name(reason: int) -> str:
    """A reason's name; one that a newer mesh has added keeps its number."""
    try:
        return errors_pb2.Reason.Name(errors_pb2.Reason.ValueType(reason)).removeprefix("REASON_")
    except ValueError:
        return f"REASON_{reason}"


def _reason_without(code: grpc.StatusCode, details: str) -> str:
    if code is grpc.StatusCode.UNAVAILABLE and details.startswith(_NEVER_SENT):
        return "ROUTER_UNAVAILABLE"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return "BODY_TOO_LARGE"
    return code.name


def _kind(reason: str, code: grpc.StatusCode, retry_after: float | None) -> type[WeftError]:
    if reason == "REQUEST_REFUSED":  # by the model server: of the caller's credential it knows nothing
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and retry_after is not None:
            return RateLimited
        return InvalidRequest if code in _WRONG else WeftError
    return _BY_REASON.get(reason) or _BY_CODE.get(code, WeftError)


_WRONG: Final = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
"""The codes of 400, 422 and 413."""

_BY_REASON: Final[dict[str, type[WeftError]]] = {
    "REQUESTS_EXHAUSTED": RateLimited,
    "TOKENS_EXHAUSTED": RateLimited,
    "CALLS_EXHAUSTED": RateLimited,
    "BODY_TOO_LARGE": InvalidRequest,
    "OVERLOADED": Unavailable,
}

_BY_CODE: Final[dict[grpc.StatusCode, type[WeftError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: NotAllowed,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOut,
}
