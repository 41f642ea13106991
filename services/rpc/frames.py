"""The domain's objects as frames, and back."""

from __future__ import annotations

from typing import Final, Protocol

import msgspec
from weft.session.v1 import frame_pb2, span_pb2

from services.core.errors import ServiceError
from services.core.inference import Head, Headers, Request
from services.core.trace_context import unpack
from services.rpc.errors import to_proto

UINT32_MAX: Final = 2**32 - 1
"""The largest number that fits the fields for credits and times."""


class Opening(msgspec.Struct, frozen=True, gc=False):
    """The first frame of a call: the request, of whose body the first `inline` bytes are in it."""

    request: Request
    inline: int
    credit: int


class Credit(msgspec.Struct, frozen=True, gc=False):
    """Bytes more that the peer may send."""

    credit: int


class End:
    """A body is complete."""


class Cancel:
    """The caller is no longer interested."""


END = End()
CANCEL = Cancel()

Session = (
    frame_pb2.Hello
    | frame_pb2.Ping
    | frame_pb2.Pong
    | frame_pb2.Drain
    | frame_pb2.Report
    | frame_pb2.Stop
    | span_pb2.Spans
)
"""What concerns the session itself is in the domain of its protos already."""

Item = bytes | Head | End | ServiceError | Opening | Credit | Cancel | Session


class Frames(Protocol):
    """The repeated field of frames in a message."""

    def add(self, **fields: object) -> frame_pb2.Frame:
        """Adds a frame."""


def weight(item: Item) -> int:
    """The bytes that an item holds, for bounding queues; the small change of a frame is not counted."""
    if type(item) is bytes:
        return len(item)
    if isinstance(item, span_pb2.Spans):
        return item.ByteSize()
    return item.inline if isinstance(item, Opening) else 0


def encode(frames: Frames, call: int, item: Item) -> None:
    """Adds the item to a message as a frame."""
    if type(item) is bytes:
        frames.add(call=call, data=item)
    elif type(item) is End:
        frames.add(call=call).end.SetInParent()
    elif isinstance(item, Head):
        head = frames.add(call=call).head
        head.status = item.status
        add_headers(head, item.headers)
    elif isinstance(item, Opening):
        _encode_opening(frames.add(call=call).open, item)
    elif isinstance(item, Credit):
        frames.add(call=call, credit=min(item.credit, UINT32_MAX))
    elif isinstance(item, Cancel):
        frames.add(call=call).cancel.SetInParent()
    elif isinstance(item, ServiceError):
        frames.add(call=call, error=to_proto(item))
    else:
        frames.add(call=call, **{type(item).__name__.lower(): item})


def _encode_opening(open_: frame_pb2.Open, item: Opening) -> None:
    request = item.request
    open_.operation = request.operation
    if request.method != "POST":
        open_.method = request.method
    add_headers(open_, request.headers)
    whole = item.inline == len(request.body)
    open_.body = request.body if whole else request.body[: item.inline]
    open_.complete = whole
    open_.credit = min(item.credit, UINT32_MAX)
    if request.timeout is not None:
        open_.timeout_ms = _milliseconds(request.timeout)
    if request.first_byte_timeout is not None:
        open_.first_byte_timeout_ms = _milliseconds(request.first_byte_timeout)
    if request.cluster:
        open_.cluster = request.cluster
    if request.framework:
        open_.framework = request.framework
    if request.trace is not None:
        open_.trace = request.trace.packed
        if request.trace.state:
            open_.trace_state = request.trace.state


def decode_request(open_: frame_pb2.Open, body: bytes) -> Request:
    """The request that was opened."""
    packed = open_.trace
    return Request(
        operation=open_.operation,
        headers=decode_headers(open_),
        body=body,
        method=open_.method or "POST",
        cluster=open_.cluster,
        framework=open_.framework,
        timeout=open_.timeout_ms / 1000 or None,
        first_byte_timeout=open_.first_byte_timeout_ms / 1000 or None,
        trace=unpack(packed, open_.trace_state) if packed else None,
    )


def decode_head(head: frame_pb2.Head) -> Head:
    """The head that was answered."""
    return Head(head.status, decode_headers(head))


def decode_headers(carrier: frame_pb2.Open | frame_pb2.Head) -> Headers:
    """The headers of a frame."""
    return tuple([(header.name, header.value) for header in carrier.headers])


def add_headers(carrier: frame_pb2.Open | frame_pb2.Head, headers: Headers) -> None:
    add = carrier.headers.add
    for name, value in headers:
        add(name=name, value=value)


def _milliseconds(seconds: float) -> int:
    # At least one: a bound that has just passed must not read as none.
    return max(1, min(int(seconds * 1000), UINT32_MAX))
