"""The typed RPCs: each is a call as HTTP makes it, by the same gateway, and its answer a message."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message
from weft.inference.v1 import (
    chat_pb2,
    completions_pb2,
    embeddings_pb2,
    inference_pb2_grpc,
    ranking_pb2,
    tokens_pb2,
)

from services.core.answers import collect, stream
from services.core.errors import Reason, ServiceError
from services.core.inference import Head, Headers, Inference, Request
from services.router.rpc_request import Context, headers_from, request_from
from services.rpc.channel import MAX_MESSAGE_BYTES
from services.rpc.limits import DEFAULT_LIMITS
from services.typed.calls import TypedCall
from services.typed.messages import answer_of
from services.typed.refusals import refusal
from services.typed.streams import StreamReader, chat_stream, completion_stream

TYPED: Final = (
    "Chat",
    "StreamChat",
    "Complete",
    "StreamComplete",
    "Embed",
    "Rerank",
    "Score",
    "Tokenize",
    "Detokenize",
)
"""The calls to models, by the names of their RPCs."""

_LARGE: Final = 256 * 1024
"""Bytes of a request from which on JSON is made of it only for those who are known: it takes up to a second or two."""
_LONGEST_REFUSAL: Final = 64 * 1024
"""Bytes of a refusal that are read."""

_TOLD: Final = ("x-ratelimit-", "x-weft-")
"""How the headers of an answer begin that the caller sees."""

M = TypeVar("M", bound=Message)


class TypedServicer(inference_pb2_grpc.InferenceServiceServicer):
    """The typed half of the inference service."""

    max_body = DEFAULT_LIMITS.max_body
    """Bytes of a request's JSON."""

    async def inference_for(self, context: Context) -> Inference:
        """Who answers this caller's calls."""
        raise NotImplementedError

    async def knows(self, context: Context) -> bool:
        """Whether the caller has a credential that is good."""
        raise NotImplementedError

    async def Chat(self, request: chat_pb2.ChatRequest, context: Context) -> chat_pb2.ChatResponse:  # noqa: N802
        """Answers a chat."""
        return await self._whole(request, context, chat_pb2.ChatResponse)

    def StreamChat(  # noqa: N802
        self, request: chat_pb2.StreamChatRequest, context: Context
    ) -> AsyncIterator[chat_pb2.StreamChatResponse]:
        """Answers a chat as the answer comes."""
        return self._pieces(request, context, chat_stream())

    async def Complete(  # noqa: N802
        self, request: completions_pb2.CompleteRequest, context: Context
    ) -> completions_pb2.CompleteResponse:
        """Goes on with texts."""
        return await self._whole(request, context, completions_pb2.CompleteResponse)

    def StreamComplete(  # noqa: N802
        self, request: completions_pb2.StreamCompleteRequest, context: Context
    ) -> AsyncIterator[completions_pb2.StreamCompleteResponse]:
        """Goes on with texts, as they come."""
        return self._pieces(request, context, completion_stream())

    async def Embed(  # noqa: N802
        self, request: embeddings_pb2.EmbedRequest, context: Context
    ) -> embeddings_pb2.EmbedResponse:
        """Embeds texts."""
        return await self._whole(request, context, embeddings_pb2.EmbedResponse)

    async def Rerank(self, request: ranking_pb2.RerankRequest, context: Context) -> ranking_pb2.RerankResponse:  # noqa: N802
        """Brings documents into order."""
        return await self._whole(request, context, ranking_pb2.RerankResponse)

    async def Score(self, request: ranking_pb2.ScoreRequest, context: Context) -> ranking_pb2.ScoreResponse:  # noqa: N802
        """Scores pairs of texts."""
        return await self._whole(request, context, ranking_pb2.ScoreResponse)

    async def Tokenize(self, request: tokens_pb2.TokenizeRequest, context: Context) -> tokens_pb2.TokenizeResponse:  # noqa: N802
        """Splits a text into tokens."""
        return await self._whole(request, context, tokens_pb2.TokenizeResponse)

    async def Detokenize(  # noqa: N802
        self, request: tokens_pb2.DetokenizeRequest, context: Context
    ) -> tokens_pb2.DetokenizeResponse:
        """Joins tokens into text."""
        return await self._whole(request, context, tokens_pb2.DetokenizeResponse)

    async def _whole(self, request: Message, context: Context, kind: type[M]) -> M:
        headers = headers_from(context)
        call = await self._typed(request, context)
        try:
            asked = self._request(call, headers, context)
            head, body = await collect(await self.inference_for(context), asked, most=MAX_MESSAGE_BYTES)
            if head.status >= 400:
                raise refusal(head, body)
            answer = answer_of(kind, body)
        except ServiceError as error:
            raise call.blame(error) from None
        if (size := answer.ByteSize()) > MAX_MESSAGE_BYTES:
            message = f"The answer has {size} bytes, and one message {MAX_MESSAGE_BYTES} at most; ask for less at once."
            raise ServiceError(Reason.ANSWER_TOO_LARGE, message)
        await _tell(head, context)
        return answer

    async def _pieces(self, request: Message, context: Context, reader: StreamReader[Any]) -> AsyncIterator[Any]:
        headers = headers_from(context)
        call = await self._typed(request, context)
        refused: Head | None = None
        body = b""
        try:
            asked = self._request(call, headers, context)
            async with contextlib.aclosing(stream(await self.inference_for(context), asked)) as parts:
                async for part in parts:
                    if isinstance(part, Head):
                        if part.status >= 400:
                            refused = part
                        else:
                            _check_events(part)
                            await _tell(part, context)
                    elif refused is None:
                        for piece in reader.feed(part):
                            yield piece
                    elif len(body) < _LONGEST_REFUSAL:
                        body += part
            if refused is not None:
                raise refusal(refused, body)
            if (last := reader.end()) is not None:
                yield last
        except ServiceError as error:
            raise call.blame(error) from None

    async def _typed(self, request: Message, context: Context) -> TypedCall:
        """Raises BODY_TOO_LARGE before the work of making JSON of what will be too large as JSON, too."""
        size = request.ByteSize()
        self._check(size)
        if size > _LARGE and not await self.knows(context):
            request = type(request)()  # whoever sends it is refused, as the gateway does it
        return TypedCall(request)

    def _request(self, call: TypedCall, headers: Headers, context: Context) -> Request:
        """Raises BODY_TOO_LARGE for a request that is larger as JSON than HTTP would take it."""
        self._check(len(call.body))
        return request_from(context, headers, call.operation, call.body, call.cluster)

    def _check(self, size: int) -> None:
        if size > self.max_body:
            message = (
                f"The request has {size} bytes or more as JSON, in which images and sounds are base64, "
                f"and may have {self.max_body}."
            )
            raise ServiceError(Reason.BODY_TOO_LARGE, message)


def _check_events(head: Head) -> None:
    if not (head.header("content-type") or "").startswith("text/event-stream"):
        raise ServiceError(Reason.UPSTREAM_BROKEN, "The model server's answer is no stream of events.")


async def _tell(head: Head, context: Context) -> None:
    """Tells what the mesh has to say beside the answer as initial metadata, where it says anything: that is a write of
    its own.
    """
    told = tuple([one for one in head.headers if one[0].startswith(_TOLD)])
    if told:
        await context.send_initial_metadata(grpc.aio.Metadata(*told))
