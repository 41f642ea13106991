"""What the commands about keys and callers share: calls to auth."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.message import Message
from weft.auth.v1 import auth_pb2_grpc

from services.cli.connection import Connection, connect
from services.cli.settings import load


def call(method: str, request: Message) -> Any:
    """One call to auth. Raises `ServiceError` or `CommandError`."""

    async def run() -> Any:
        async with connect(load(), "auth") as auth:
            return await _unary(auth, method, request)

    return asyncio.run(run())


def list_all(method: str, request: Any, field: str) -> list[Any]:
    """All pages of a list."""

    async def run() -> list[Any]:
        found: list[Any] = []
        async with connect(load(), "auth") as auth:
            while True:
                answer = await _unary(auth, method, request)
                found += getattr(answer, field)
                request.page_token = answer.next_page_token
                if not request.page_token:
                    return found

    return asyncio.run(run())


async def _unary(auth: Connection, method: str, request: Message) -> Any:
    stub = auth_pb2_grpc.AuthServiceStub(auth.channel)
    return await getattr(stub, method)(request, metadata=auth.metadata, timeout=auth.timeout)
