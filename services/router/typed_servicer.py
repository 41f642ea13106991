"""The typed RPCs: each is a call as HTTP makes it, through the same gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
from weft.inference.v1 import (
    chat_pb2,
    completions_pb2,
    embeddings_pb2,
    inference_pb2_grpc,
    ranking_pb2,
    tokens_pb2,
)

from services.core.errors import Reason, ServiceError

Context = grpc.aio.ServicerContext[Any, Any]

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


class TypedServicer(inference_pb2_grpc.InferenceServiceServicer):
    """The typed half of the inference service."""

    async def Chat(self, request: chat_pb2.ChatRequest, context: Context) -> chat_pb2.ChatResponse:  # noqa: N802
        """Answers a chat."""
        raise ServiceError(Reason.OPERATION_UNSUPPORTED)

    async def StreamChat(
        self, request: chat_pb2.StreamChatRequest, context: Context
    ) -> AsyncIterator[chat_pb2.StreamChatResponse]:  # noqa: N802
        """Answers a chat as the answer comes."""
        raise ServiceError(Reason.OPERATION_UNSUPPORTED)
        yield chat_pb2.StreamChatResponse()

    async def Complete(  # noqa: N802
        self, request: completions_pb2.CompleteRequest, context: Context
    ) -> completions_pb2.CompleteResponse:
        """Goes on with texts."""
        raise ServiceError(Reason.OPERATION_UNSUPPORTED)

    async def StreamComplete(
        self, request: completions_pb2.StreamCompleteRequest, context: Context
    ) -> AsyncIterator[completions_pb2.StreamCompleteResponse]:  # noqa: N802
        """Goes on with texts, as they come."""
        raise ServiceError(Reason.OPERATION_UNSUPPORTED)
        yield completions_pb2.StreamCompleteResponse()

    async def Embed(  # noqa: N802
        self, request: embeddings_pb2.EmbedRequest, context: Context
    ) -> embeddings_pb2.EmbedResponse:
        """Embeds texts."""
        raise ServiceError(Reason.OPERATION_UNSUPPORTED)

    async def Rerank(self, request: ranking_pb2.RerankRequest, context: Context) -> ranking_pb2.RerankResponse:  # noqa: N802
        """Brings documents into order."""
        raise ServiceError(Reason.OPERATION_UNSUPPORTED)

    async def Score(self, request: ranking_pb2.ScoreRequest, context: Context) -> ranking_pb2.ScoreResponse:  # noqa: N802
        """Scores pairs of texts."""
        raise ServiceError(Reason.OPERATION_UNSUPPORTED)

    async def Tokenize(self, request: tokens_pb2.TokenizeRequest, context: Context) -> tokens_pb2.TokenizeResponse:  # noqa: N802
        """Splits a text into tokens."""
        raise ServiceError(Reason.OPERATION_UNSUPPORTED)

    async def Detokenize(  # noqa: N802
        self, request: tokens_pb2.DetokenizeRequest, context: Context
    ) -> tokens_pb2.DetokenizeResponse:
        """Joins tokens into text."""
        raise ServiceError(Reason.OPERATION_UNSUPPORTED)
