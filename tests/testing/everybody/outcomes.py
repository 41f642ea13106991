"""What came back from an RPC or a route, in the words of the table."""

from __future__ import annotations

from typing import Any

import aiohttp
import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from services.core.errors import CATALOGUE
from services.rpc.channel import bearer
from services.rpc.status import STATUS_METADATA
from tests.testing.everybody.requests import http_body
from tests.testing.everybody.table import OK
from tests.testing.processes import SOON

_CODES = {kind.code: reason.name for reason, kind in CATALOGUE.items()}
_ANTHROPIC = {"authentication_error": 401, "permission_error": 403}


async def call(channel: grpc.aio.Channel, method: MethodDescriptor, request: Any, credential: str) -> str:
    """`OK` as soon as an RPC has begun to answer, or has ended well; else the reason."""
    while True:
        try:
            return await _call(channel, method, request, credential)
        except grpc.aio.AioRpcError as error:
            if not wrote_too_late(error):
                return _reason(error)


def wrote_too_late(error: grpc.aio.AioRpcError) -> bool:
    """Whether the call was over before its request was written: grpc.aio then forgets how it ended, and tells this."""
    return error.code() is grpc.StatusCode.INTERNAL and "execute_batch" in (error.debug_error_string() or "")


async def _call(channel: grpc.aio.Channel, method: MethodDescriptor, request: Any, credential: str) -> str:
    path = f"/{method.containing_service.full_name}/{method.name}"
    how: dict[str, Any] = {
        "request_serializer": GetMessageClass(method.input_type).SerializeToString,
        "response_deserializer": GetMessageClass(method.output_type).FromString,
    }
    metadata = bearer(credential)
    stream: Any
    if method.client_streaming:
        stream = channel.stream_stream(path, **how)(iter([request]), metadata=metadata, timeout=SOON)
    elif method.server_streaming:
        stream = channel.unary_stream(path, **how)(request, metadata=metadata, timeout=SOON)
    else:
        await channel.unary_unary(path, **how)(request, metadata=metadata, timeout=SOON)
        return OK
    async for _ in stream:
        break
    stream.cancel()
    return OK


def _reason(error: grpc.aio.AioRpcError) -> str:
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_METADATA:
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    assert error.code().value[0] == CATALOGUE_BY_NAME[info.reason].grpc.value
                    return str(info.reason)
    return error.code().name


CATALOGUE_BY_NAME = {reason.name: kind for reason, kind in CATALOGUE.items()}


async def ask(client: aiohttp.ClientSession, method: str, path: str, credential: str, expected: str) -> str:
    """`OK`, or the reason. Where an error's shape has no place for it: the expected one, if the status is its."""
    headers = {"authorization": f"Bearer {credential}"} if credential else {}
    body = http_body(path) if method == "POST" else None
    if body is not None:
        headers["content-type"] = "application/json"
    async with client.request(method, path, data=body, headers=headers) as answer:
        if answer.status < 400:
            return OK
        told = await answer.json(content_type=None)
        assert "www-authenticate" in answer.headers if answer.status == 401 else True
        code = told.get("error", {}).get("code") if isinstance(told.get("error"), dict) else None
        if code in _CODES:
            reason = _CODES[code]
            assert CATALOGUE_BY_NAME[reason].http == answer.status
            return reason
        if expected != OK and CATALOGUE_BY_NAME[expected].http == answer.status:
            return expected
        return f"{answer.status} {str(told)[:200]}"
