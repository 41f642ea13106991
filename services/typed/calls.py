"""Which call of OpenAI's each typed request is: operation, body, and what its errors mean. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from google.protobuf.message import Message
from msgspec import Raw

from services.core.errors import Reason, ServiceError
from services.typed.messages import request_tree
from services.typed.paths import field_path
from services.typed.raw import FieldError, object_text, unique_members
from services.typed.shape import EXTRA, Tree
from services.typed.values import TEXT

OPERATIONS: Final[Mapping[str, str]] = {
    "ChatRequest": "/v1/chat/completions",
    "CompleteRequest": "/v1/completions",
    "EmbedRequest": "/v1/embeddings",
    "RerankRequest": "/v1/rerank",
    "ScoreRequest": "/v1/score",
    "TokenizeRequest": "/tokenize",
    "DetokenizeRequest": "/detokenize",
}
"""By the kind of request."""

_STREAMS: Final[Mapping[str, str]] = {"StreamChatRequest": "chat", "StreamCompleteRequest": "complete"}
"""The requests that hold another one, which is to be streamed, and under which name."""

_TRUE: Final = Raw(b"true")
_USAGE: Final = "include_usage"


class TypedCall:
    """A typed request as a call: `operation`, `body`, and the `cluster` that it is pinned to. Raises ARGUMENT_INVALID
    with the path of the field that is wrong.
    """

    def __init__(self, request: Any) -> None:
        name = request.DESCRIPTOR.name
        self._prefix = _STREAMS.get(name, "")
        inner = getattr(request, self._prefix) if self._prefix else request
        self._kind = inner.DESCRIPTOR
        self.operation = OPERATIONS[self._kind.name]
        self.cluster: str = inner.cluster
        try:
            tree = self._tree(inner)
        except FieldError as error:
            seen = error.within(self._prefix) if self._prefix else error
            raise ServiceError(Reason.ARGUMENT_INVALID, str(seen), param=seen.path) from None
        try:
            self.body = msgspec.json.encode(tree)
        except RecursionError:
            raise ServiceError(Reason.BODY_TOO_DEEP) from None

    def _tree(self, inner: Message) -> Tree:
        tree = request_tree(inner)
        if "stream" in tree:
            raise FieldError(EXTRA, "has the member 'stream'; whether an answer is streamed is the RPC's to say")
        if self._prefix:
            tree["stream"] = _TRUE
            tree["stream_options"] = _with_usage(tree.get("stream_options"))
        elif self._kind.name == "EmbedRequest":
            _ask_for_bits(tree)
        elif self._kind.name == "DetokenizeRequest":
            tree.setdefault("tokens", [])
        return tree

    def blame(self, error: ServiceError) -> ServiceError:
        """The same error, with the path of the typed field where it names a parameter of the JSON."""
        if error.param is not None and (path := field_path(self._kind, error.param)):
            error.param = f"{self._prefix}.{path}" if self._prefix else path
        return error


def _with_usage(options: Raw | None) -> Any:
    """The options of a stream, which tells its usage in any case: its end holds it."""
    if options is None:
        return {_USAGE: True}
    try:
        found = unique_members(bytes(options).decode())
    except FieldError as error:
        raise FieldError(f"{EXTRA}.stream_options", error.why) from None
    return Raw(object_text({**found, _USAGE: _TRUE}).encode())


def _ask_for_bits(tree: Tree) -> None:
    """Floats of 32 bits as they are, in base64: a third of the bytes of their digits, and no reading of numbers."""
    for key in ("embed_dtype", "endianness"):
        if key in tree:
            raise FieldError(f"{EXTRA}.{key}", "cannot be chosen here, where all are floats of 32 bits; use Infer")
    encoding = tree.setdefault("encoding_format", "base64")
    if encoding != "base64" and TEXT.read(encoding) not in ("float", "base64"):
        raise FieldError(f"{EXTRA}.encoding_format", "is 'float' or 'base64' here; use Infer for any other")
