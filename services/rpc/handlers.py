"""What interceptors do to the handlers of RPCs: put something around the behaviour, which has one of four kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

Handler = Any  # grpc.RpcMethodHandler has no public type for its four kinds of behaviour.


def behaviour_of(handler: Handler) -> Any:
    """What serves the method."""
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream


def replaced(handler: Handler, behaviour: Any, parse: Callable[[bytes], Any] | None) -> Handler:
    """A handler of the same kind that serves by `behaviour`, and reads requests by `parse`."""
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(behaviour, parse, handler.response_serializer)
