"""A gRPC client's call as a `Request`: its metadata are headers, its deadline is its time."""

from __future__ import annotations

import secrets
from typing import Any, Final

import grpc

from services.core.inference import Headers, Request

Context = grpc.aio.ServicerContext[Any, Any]

_NO_DEADLINE: Final = 10.0**8
"""Seconds from which on a time that remains stands for no deadline."""

_REQUEST_ID: Final = "x-request-id"


def headers_from(context: Context) -> Headers:
    """The call's headers, with an id in any case: vLLM makes the answer's id of it, and whoever reports an error needs
    it, so that it goes back as trailing metadata, whatever becomes of the call.
    """
    metadata = (one for one in context.invocation_metadata() or () if isinstance(one[1], str))
    headers = [(key, str(value)) for key, value in metadata if key != "content-type"]
    own = next((value for key, value in headers if key == _REQUEST_ID), None)
    if own is None:
        own = secrets.token_hex(16)
        headers.append((_REQUEST_ID, own))
    context.set_trailing_metadata(((_REQUEST_ID, own),))
    return tuple(headers)


def request_from(context: Context, headers: Headers, operation: str, body: bytes, cluster: str) -> Request:
    """The call, with these `headers_from` its context."""
    remaining = context.time_remaining()
    return Request(
        operation=operation,
        headers=(*headers, ("content-type", "application/json")),
        body=body,
        cluster=cluster,
        timeout=remaining if remaining and remaining < _NO_DEADLINE else None,
    )
