"""The RPCs that the clients call, and what a stream of each is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from weft.client.gathering import gather, gather_completion
from weft.client.raw import RawAnswer, gather_raw
from weft.inference.v1 import chat_pb2, completions_pb2, embeddings_pb2, inference_pb2, ranking_pb2, tokens_pb2

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Piece = TypeVar("Piece")
Whole = TypeVar("Whole")


@dataclass(frozen=True)
class Rpc(Generic[Request, Answer]):
    """A call with one answer, by its name in the service."""

    name: str


@dataclass(frozen=True)
class StreamRpc(Generic[Request, Piece, Whole]):
    """A call whose answer comes in pieces. `ends` tells the piece without which a stream was cut."""

    name: str
    gather: Callable[[Iterable[Piece]], Whole]
    text: Callable[[Piece], str]
    ends: Callable[[Piece], bool] | None


def _chat_text(piece: chat_pb2.StreamChatResponse) -> str:
    return "".join(delta.content for delta in piece.deltas if delta.index == 0)


def _completion_text(piece: completions_pb2.StreamCompleteResponse) -> str:
    return "".join(delta.text for delta in piece.deltas if delta.index == 0)


def _has_end(piece: Any) -> bool:
    ended: bool = piece.HasField("end")
    return ended


CHAT: Final = Rpc[chat_pb2.ChatRequest, chat_pb2.ChatResponse]("Chat")
COMPLETE: Final = Rpc[completions_pb2.CompleteRequest, completions_pb2.CompleteResponse]("Complete")
EMBED: Final = Rpc[embeddings_pb2.EmbedRequest, embeddings_pb2.EmbedResponse]("Embed")
RERANK: Final = Rpc[ranking_pb2.RerankRequest, ranking_pb2.RerankResponse]("Rerank")
SCORE: Final = Rpc[ranking_pb2.ScoreRequest, ranking_pb2.ScoreResponse]("Score")
TOKENIZE: Final = Rpc[tokens_pb2.TokenizeRequest, tokens_pb2.TokenizeResponse]("Tokenize")
DETOKENIZE: Final = Rpc[tokens_pb2.DetokenizeRequest, tokens_pb2.DetokenizeResponse]("Detokenize")
LIST_MODELS: Final = Rpc[inference_pb2.ListModelsRequest, inference_pb2.ListModelsResponse]("ListModels")
GET_MODEL: Final = Rpc[inference_pb2.GetModelRequest, inference_pb2.GetModelResponse]("GetModel")

STREAM_CHAT: Final = StreamRpc[chat_pb2.StreamChatRequest, chat_pb2.StreamChatResponse, chat_pb2.ChatResponse](
    "StreamChat", gather, _chat_text, _has_end
)
STREAM_COMPLETE: Final = StreamRpc[
    completions_pb2.StreamCompleteRequest, completions_pb2.StreamCompleteResponse, completions_pb2.CompleteResponse
]("StreamComplete", gather_completion, _completion_text, _has_end)
INFER: Final = StreamRpc[inference_pb2.InferRequest, inference_pb2.InferResponse, RawAnswer](
    "Infer", gather_raw, lambda piece: piece.text, None
)
