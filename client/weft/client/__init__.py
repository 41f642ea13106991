"""Weft's client: calls models over gRPC, from plain code (`Client`) or from asyncio (`AsyncClient`).

    from weft.client import Client

    with Client("router.example.org:7443") as client:  # the key is in WEFT_KEY
        print(client.chat("llama-70b", "Hello").choices[0].message.text)

Requests and responses are the messages of `weft.inference.v1`. docs/grpc.md teaches the whole by example.
"""

from weft.client.async_client import AsyncClient
from weft.client.async_stream import AsyncStream
from weft.client.channel import MutualTls, Tls
from weft.client.credentials import ApiKey, Credential, GlobusLogin
from weft.client.errors import (
    InvalidRequest,
    Limit,
    NotAllowed,
    RateLimited,
    TimedOut,
    Truncated,
    Unavailable,
    WeftError,
)
from weft.client.gathering import gather
from weft.client.messages import json_schema, tool, tool_result
from weft.client.raw import RawAnswer
from weft.client.retry import Retry
from weft.client.sync_client import Client
from weft.client.sync_stream import Stream

__all__ = [
    "ApiKey",
    "AsyncClient",
    "AsyncStream",
    "Client",
    "Credential",
    "GlobusLogin",
    "InvalidRequest",
    "Limit",
    "MutualTls",
    "NotAllowed",
    "RateLimited",
    "RawAnswer",
    "Retry",
    "Stream",
    "TimedOut",
    "Tls",
    "Truncated",
    "Unavailable",
    "WeftError",
    "gather",
    "json_schema",
    "tool",
    "tool_result",
]
