"""A gRPC client's call as a `Request`: its metadata are headers, its deadline is its time."""

from __future__ import annotations

from typing import Any, Final

import grpc

from services.core.inference import Request

Context = grpc.aio.ServicerContext[Any, Any]

_NO_DEADLINE: Final = 10.0**8
"""Seconds from which on a time that remains stands for no deadline."""


def request_from(context: Context, operation: str, body: bytes, cluster: str) -> Request:
    """The call."""
    metadata = (one for one in context.invocation_metadata() or () if isinstance(one[1], str))
    headers = tuple([(key, str(value)) for key, value in metadata if key != "content-type"])
    remaining = context.time_remaining()
    return Request(
        operation=operation,
        headers=(*headers, ("content-type", "application/json")),
        body=body,
        cluster=cluster,
        timeout=remaining if remaining and remaining < _NO_DEADLINE else None,
    )
