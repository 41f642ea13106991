"""The domain's errors as google.rpc.Status with ErrorInfo, RetryInfo, BadRequest and QuotaFailure (https://google.aip.dev/193)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NoReturn, Protocol

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
_MESSAGE: Final = 1200
_VALUE: Final = 100
"""Bytes of a message and of any other text that leave: a status travels in headers, of which clients take 8 KiB by
default, and its message three times: twice in base64, once with three characters for each byte that is not ASCII.
"""


class _Abortable(Protocol):
    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...

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
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.param, description=_cut(error.message, _VALUE)
        )
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
    """Ends an RPC with the error, beside the trailing metadata that are set already."""
    error = _short(error)
    metadata: tuple[tuple[str, str | bytes], ...] = (
        *(context.trailing_metadata() or ()),
        (STATUS_METADATA, to_status(error).SerializeToString()),
        (ERROR_METADATA, to_proto(error).SerializeToString()),
    )
    if error.reason is Reason.SHUTTING_DOWN and error.retry_after is not None:
        metadata += ((NOT_BEGUN, "1"),)
    await context.abort(_CODES[error.grpc.value], error.message, metadata)


def _short(error: ServiceError) -> ServiceError:
    """The error as headers can hold it. It may quote what a client or a model server sent."""
    return ServiceError(
        error.reason,
        _cut(error.message, _MESSAGE),
        param=None if error.param is None else _cut(error.param, _VALUE),
        retry_after=error.retry_after,
        violations=error.violations,
        headers=error.headers,
        principal=error.principal,
        grpc=error.grpc,
        info=tuple((key, _cut(value, _VALUE)) for key, value in error.info),
    )


def _cut(text: str, most: int) -> str:
    """Text of at most so many bytes of UTF-8."""
    data = text.encode("utf-8", "replace")
    return data.decode() if len(data) <= most else data[: most - 3].decode("utf-8", "ignore") + "…"
