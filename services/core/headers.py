"""Which headers travel: outwards, only those on a list, so that a client's credentials never reach a worker or a
provider.
"""

from __future__ import annotations

import re
from typing import Final

from services.core.errors import Reason, ServiceError
from services.core.inference import Headers, Request
from services.core.tracing import under

TO_UPSTREAM: Final = frozenset(
    {
        "accept",
        "anthropic-beta",
        "anthropic-version",
        "content-type",
        "endpoint-load-metrics-format",
        "traceparent",
        "tracestate",
        "x-request-id",
    }
)
"""Request headers that reach a worker, its vLLM, or an HTTP endpoint.

vLLM reads more, which stop here: X-data-parallel-rank and X-Vllm-Priority would let a caller choose its engine and go
before others, which is for the mesh to decide; X-Session-ID may be a client's secret.
"""

TO_ROUTER: Final = TO_UPSTREAM | {"authorization", "prefer", "x-stainless-read-timeout", "x-stainless-timeout"}
"""Request headers that the facade hands to the router, where the credential stops, and so does what says how long the
client waits.
"""

TO_CLIENT: Final = frozenset(
    {"content-length", "content-type", "endpoint-load-metrics", "metadata", "retry-after", "x-request-id"}
)
"""Answer headers that reach the client. Without vLLM's `metadata`, embeddings as bytes cannot be read."""

# RFC 9110, 5.5: visible characters, spaces and tabs. A line break here would let a gRPC client write headers of its own
# into the HTTP request that the worker sends.
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\ud7ff\ue000-\U0010ffff]*")


def select(headers: Headers, allowed: frozenset[str]) -> Headers:
    """Those headers that are on the list. Raises HEADER_INVALID for a value that no header can have."""
    selected = tuple([header for header in headers if header[0] in allowed])
    for name, value in selected:
        if _VALUE.fullmatch(value) is None:
            raise ServiceError(Reason.HEADER_INVALID, f"The header '{name}' holds a character that no header can have.")
    return selected


def to_upstream(request: Request) -> Headers:
    """The headers that a model server gets with a call, its place in the mesh's trace among them. Raises as `select`
    does.
    """
    headers = select(request.headers, TO_UPSTREAM)
    return headers if request.trace is None else under(headers, request.trace)
