"""The domain's errors as `weft.errors.v1.Error`, and what a client makes of a failed RPC.

Needs the base dependencies alone: workers read errors too.
"""

from __future__ import annotations

import grpc
from weft.errors.v1 import errors_pb2

from services.core.errors import CATALOGUE, GrpcCode, QuotaViolation, Reason, ServiceError

ERROR_METADATA = "weft-error-bin"
"""The trailing metadata that holds the `weft.errors.v1.Error`, beside google.rpc's `grpc-status-details-bin`."""


def to_proto(error: ServiceError) -> errors_pb2.Error:
    """The error as it travels inside a session."""
    proto = errors_pb2.Error(
        reason=errors_pb2.Reason.ValueType(error.reason.value),
        message=_printable(error.message),
        param=_printable(error.param or ""),
        principal=error.principal,
        info={key: _printable(value) for key, value in error.info},
    )
    if error.retry_after is not None:
        proto.retry_after.FromMilliseconds(int(error.retry_after * 1000))
    for violation in error.violations:
        proto.violations.add(subject=violation.subject, description=violation.description)
    for name, value in error.headers:
        proto.headers.add(name=name, value=value)
    return proto


def _printable(text: str) -> str:
    """Text as UTF-8 can hold it. A message may quote a client's lone surrogates, at which protobuf would raise."""
    return text.encode("utf-8", "replace").decode()


def from_proto(proto: errors_pb2.Error) -> ServiceError:
    """The error that a peer sent. A reason that we do not know, from a newer peer, is INTERNAL."""
    try:
        reason = Reason(proto.reason)
    except ValueError:
        reason = Reason.INTERNAL
    return ServiceError(
        reason,
        proto.message or None,
        param=proto.param or None,
        retry_after=proto.retry_after.ToMilliseconds() / 1000 if proto.HasField("retry_after") else None,
        violations=tuple(QuotaViolation(one.subject, one.description) for one in proto.violations),
        headers=tuple((header.name, header.value) for header in proto.headers),
        principal=proto.principal,
        info=tuple(proto.info.items()),
    )


def from_rpc_error(error: grpc.RpcError, *, unavailable: Reason) -> ServiceError:
    """What a failed RPC means. Where the server gave no error of ours, `unavailable` says who could not be reached."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return ServiceError(Reason.INTERNAL, str(error))
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_METADATA and isinstance(value, bytes):
            return from_proto(errors_pb2.Error.FromString(value))
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return ServiceError(unavailable)
    details = error.details() or error.code().name
    return ServiceError(_BY_CODE.get(error.code().value[0], Reason.INTERNAL), details)


def is_ours(error: grpc.RpcError) -> bool:
    """Whether the server that answered is one of Weft's: a load balancer on the way refuses with the same statuses."""
    trailing = error.trailing_metadata() if isinstance(error, grpc.aio.AioRpcError) else None
    return any(key == ERROR_METADATA for key, _ in trailing or ())


# For servers that are not ours, or that fail below our code: the first reason of the catalogue with that status.
_BY_CODE = {
    code.value: next(reason for reason, kind in CATALOGUE.items() if kind.grpc is code)
    for code in GrpcCode
    if code not in (GrpcCode.INTERNAL, GrpcCode.RESOURCE_EXHAUSTED, GrpcCode.UNIMPLEMENTED)
}
