"""A gRPC client's call as a `Request`: its metadata are headers, its deadline is its time."""

from __future__ import annotations

import re
from typing import Any, Final

import grpc

from services.core.inference import Headers, Request
from services.core.trace_context import new_trace_id

Context = grpc.aio.ServicerContext[Any, Any]

_NO_DEADLINE: Final = 10.0**8
"""Seconds from which on a time that remains stands for no deadline."""

_REQUEST_ID: Final = "x-request-id"
_SHOWN: Final = re.compile(r"[!-~]{1,128}")
"""An id that can be shown, as facades judge it too: a longer one would leave a status no room in its headers."""


def headers_from(context: Context) -> Headers:
    """The call's headers, with an id in any case: vLLM makes the answer's id of it, and whoever reports an error needs
    it, so that it goes back as trailing metadata, whatever becomes of the call.
    """
    metadata = (one for one in context.invocation_metadata() or () if isinstance(one[1], str))
    headers = [(key, str(value)) for key, value in metadata if key != "content-type"]
    sent = (value for key, value in headers if key == _REQUEST_ID and _SHOWN.fullmatch(value))
    own = (_REQUEST_ID, next(sent, "") or new_trace_id())
    context.set_trailing_metadata((own,))
    return (*[one for one in headers if one[0] != _REQUEST_ID], own)


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
