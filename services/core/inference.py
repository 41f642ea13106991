"""The one interface from end to end: everything that can answer a call implements `Inference`.

It is written as callbacks, not as iterators: a relay then forwards a chunk in one function call, where an iterator
costs a task switch per chunk and hop (the facade and the router together have about 20 µs of CPU for a chunk).
`services/core/answers.py` turns a call into an iterator for those who have the time.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from services.core.errors import ServiceError
from services.core.trace_context import TraceContext

Headers = tuple[tuple[str, str], ...]
"""Header fields in order, names in lower case."""


class Request(msgspec.Struct, frozen=True, gc=False):
    """One call to a model.

    `operation` is the path as vLLM knows it (`/v1/chat/completions`, `/tokenize`). `cluster` and `framework` pin the
    call where they are not empty. The timeouts are in seconds and relative to now; None leaves them to the callee.
    `trace` is the span in whose course the call is made, if the mesh traces it; it counts before a `traceparent` among
    the headers.
    """

    operation: str
    headers: Headers
    body: bytes
    method: str = "POST"
    cluster: str = ""
    framework: str = ""
    timeout: float | None = None
    first_byte_timeout: float | None = None
    trace: TraceContext | None = None

    def header(self, name: str) -> str | None:
        """The first value of a header, by its name in lower case."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Head(msgspec.Struct, frozen=True, gc=False):
    """How an answer begins: HTTP status and headers."""

    status: int
    headers: Headers

    def header(self, name: str) -> str | None:
        """The first value of a header, by its name in lower case."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Receiver(Protocol):
    """Takes an answer: `head`, then `data` any number of times, then `end`; or `fail` at any point in place of the
    rest.

    Never called before `Inference.open` has returned, nor after `end`, `fail` or `Call.cancel`.
    """

    def head(self, head: Head) -> None:
        """The answer begins."""

    def data(self, chunk: bytes) -> None:
        """Bytes of the answer's body; never more in all than was granted."""

    def end(self) -> None:
        """The answer is whole."""

    def fail(self, error: ServiceError) -> None:
        """The answer will not be whole."""


class Call(Protocol):
    """An open call, in the hands of whoever opened it."""

    def grant(self, credit: int) -> None:
        """Lets the callee send so many bytes more. Granting is how a slow receiver slows the sender."""

    def cancel(self) -> None:
        """Ends the call; its computation stops. Does nothing once the call has ended."""


class Inference(Protocol):
    """Whatever can answer calls: the router, a worker, an HTTP endpoint, or a peer at the other end of a stream."""

    def open(self, request: Request, receiver: Receiver, credit: int) -> Call:
        """Opens a call; at first, the callee may send `credit` bytes of body. Never raises: a refusal comes by
        `Receiver.fail`.
        """
