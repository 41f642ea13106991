"""The id under which a request is found again: in the client's answer, the mesh's logs, and vLLM's own id."""

from __future__ import annotations

import re
from collections.abc import Iterable

from services.core.trace_context import new_trace_id

_SHOWN = re.compile(rb"[!-~]{1,128}")


def is_request_id(value: bytes) -> bool:
    """Whether a client's id is one that can be shown."""
    return _SHOWN.fullmatch(value) is not None


def new_request_id() -> str:
    """An id that nobody has had: one that a trace can have too."""
    return new_trace_id()


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The client's own id if it sent one, else a new one."""
    sent = (value for name, value in headers if name == b"x-request-id" and is_request_id(value))
    return next(sent, b"") or new_request_id().encode()
