"""The domain's errors as google.rpc.Status with ErrorInfo, RetryInfo, BadRequest and QuotaFailure (https://google.aip.dev/193)."""

from __future__ import annotations

from typing import NoReturn, Protocol

import grpc
from google.protobuf import any_pb2, message
from google.rpc import error_details_pb2, status_pb2

from services.core.errors import Reason, ServiceError
from services.rpc.errors import ERROR_METADATA, to_proto

DOMAIN = "weft"
STATUS_METADATA = "grpc-status-details-bin"
NOT_BEGUN = "weft-not-begun"
"""Trailing metadata of a server that is about to stop, with calls that it has not begun: a proxy in front may try them
at another server, whatever they would have done. It reads no other way than in plain text.
"""
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class _Abortable(Protocol):
    async def abort(
        self, code: grpc.StatusCode, details: str, trailing_metadata: tuple[tuple[str, str | bytes], ...]
    ) -> NoReturn: ...


def to_status(error: ServiceError) -> status_pb2.Status:
    """The error as every gRPC client can read it."""
    details: list[message.Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason.name, domain=DOMAIN, metadata=dict(error.info))
    ]
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(error.retry_after * 1000))
        details.append(retry)
    if error.param is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.param, description=error.message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.violations:
        failure = error_details_pb2.QuotaFailure()
        for limit in error.violations:
            failure.violations.add(subject=limit.subject, description=limit.description)
        details.append(failure)
    status = status_pb2.Status(code=error.grpc.value, message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


async def abort(context: _Abortable, error: ServiceError) -> NoReturn:
    """Ends an RPC with the error."""
    metadata: tuple[tuple[str, str | bytes], ...] = (
        (STATUS_METADATA, to_status(error).SerializeToString()),
        (ERROR_METADATA, to_proto(error).SerializeToString()),
    )
    if error.reason is Reason.SHUTTING_DOWN and error.retry_after is not None:
        metadata += ((NOT_BEGUN, "1"),)
    await context.abort(_CODES[error.grpc.value], error.message, metadata)
