"""The client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
from weft.client import requests, rpcs
from weft.client.async_stream import AsyncStream
from weft.client.calling import DEFAULT_TIMEOUT, Calling, Metadata, Settings
from weft.client.channel import Tls
from weft.client.credentials import Credential
from weft.client.messages import Json, Messages
from weft.client.raw import RawAnswer
from weft.client.retry import Retry
from weft.client.rpcs import Answer, Piece, Request, Rpc, StreamRpc, Whole
from weft.inference.v1.chat_pb2 import ChatRequest, ChatResponse, StreamChatRequest, StreamChatResponse
from weft.inference.v1.completions_pb2 import (
    CompleteRequest,
    CompleteResponse,
    StreamCompleteRequest,
    StreamCompleteResponse,
)
from weft.inference.v1.embeddings_pb2 import EmbedRequest, EmbedResponse
from weft.inference.v1.inference_pb2 import (
    GetModelRequest,
    InferRequest,
    InferResponse,
    ListModelsRequest,
    Model,
)
from weft.inference.v1.inference_pb2_grpc import InferenceServiceStub
from weft.inference.v1.ranking_pb2 import RerankRequest, RerankResponse, ScoreRequest, ScoreResponse
from weft.inference.v1.tokens_pb2 import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
)


class AsyncClient:
    """Calls models, from asyncio.

        async with AsyncClient("router.example.org:7443", credential=ApiKey.from_file("weft.key")) as client:
            print((await client.chat("llama-70b", "Hello")).choices[0].message.text)

    `address` is the router's `HOST:PORT`; by default what WEFT_ROUTER says, else the one of `weft up`. `credential` is
    a key, or any `Credential`; by default the key in WEFT_KEY, or that of `weft up`. The connection is plain on
    loopback, and by TLS to anywhere else, unless `insecure` says that it may be plain; `tls` says which authorities are
    trusted, and `MutualTls` has the caller show a certificate. `timeout` is for one call with all of its attempts, in
    seconds; `retry=None` has each tried once.

    Each call takes its request as one message, or in parts; `timeout`, and `metadata` such as
    `(("x-request-id", "…"),)`. A span of OpenTelemetry's that is current becomes the parent of the call's. All raise
    `WeftError`; making a client raises ValueError for an address that is none, `NotAllowed` for a key that is none, and
    OSError for a file that cannot be read.

    A client belongs to the loop in which it is first used.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        credential: Credential | str | None = None,
        tls: Tls | None = None,
        insecure: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
        retry: Retry | None = Retry(),  # noqa: B008 - it is frozen
    ) -> None:
        self._settings = Settings.of(address, credential, tls, insecure, timeout, retry)
        self._sleep = asyncio.sleep
        self._channel: grpc.aio.Channel | None = None
        self._stub: InferenceServiceStub | None = None

    async def close(self) -> None:
        """Ends the connection, and what still runs over it."""
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def chat(
        self,
        model: str | ChatRequest,
        messages: Messages = (),
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **options: Unpack[requests.ChatOptions],
    ) -> ChatResponse:
        """The answer to a chat.

        client.chat("llama-70b", "Hello", max_tokens=64)
        client.chat("llama-70b", [{"role": "system", "content": "Be brief."}, "Hello"])
        client.chat(ChatRequest(model="llama-70b", messages=[ChatMessage(role="user", text="Hello")]))
        """
        request = requests.chat_request(model, messages, options)
        return await self._call(rpcs.CHAT, request, timeout, metadata)

    def stream_chat(
        self,
        model: str | ChatRequest,
        messages: Messages = (),
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **options: Unpack[requests.ChatOptions],
    ) -> AsyncStream[StreamChatResponse, ChatResponse]:
        """The same, as it comes."""
        request = StreamChatRequest(chat=requests.chat_request(model, messages, options))
        return self._stream(rpcs.STREAM_CHAT, request, timeout, metadata)

    async def complete(
        self,
        model: str | CompleteRequest,
        prompts: requests.Texts = (),
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **options: Unpack[requests.CompleteOptions],
    ) -> CompleteResponse:
        """How texts go on: `client.complete("llama-70b", "Once upon a time", max_tokens=16)`."""
        request = requests.complete_request(model, prompts, options)
        return await self._call(rpcs.COMPLETE, request, timeout, metadata)

    def stream_complete(
        self,
        model: str | CompleteRequest,
        prompts: requests.Texts = (),
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **options: Unpack[requests.CompleteOptions],
    ) -> AsyncStream[StreamCompleteResponse, CompleteResponse]:
        """The same, as it comes."""
        request = StreamCompleteRequest(complete=requests.complete_request(model, prompts, options))
        return self._stream(rpcs.STREAM_COMPLETE, request, timeout, metadata)

    async def embed(
        self,
        model: str | EmbedRequest,
        inputs: requests.Texts = (),
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **options: Unpack[requests.EmbedOptions],
    ) -> EmbedResponse:
        """Embeddings of texts: `client.embed("e5", ["warp", "weft"]).embeddings[0].values`."""
        return await self._call(rpcs.EMBED, requests.embed_request(model, inputs, options), timeout, metadata)

    async def rerank(
        self,
        model: str | RerankRequest,
        query: str = "",
        documents: Iterable[str] = (),
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **options: Unpack[requests.RerankOptions],
    ) -> RerankResponse:
        """Documents by how well they fit a query, best first: `client.rerank("bge", "cloth", ["warp", "tree"])`."""
        request = requests.rerank_request(model, query, documents, options)
        return await self._call(rpcs.RERANK, request, timeout, metadata)

    async def score(
        self,
        model: str | ScoreRequest,
        first: str | Iterable[str] = (),
        second: str | Iterable[str] = (),
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **options: Unpack[requests.ScoreOptions],
    ) -> ScoreResponse:
        """How well pairs of texts fit: `client.score("bge", "cloth", ["warp", "tree"]).scores[0].score`."""
        return await self._call(rpcs.SCORE, requests.score_request(model, first, second, options), timeout, metadata)

    async def tokenize(
        self,
        model: str | TokenizeRequest,
        text: Messages = (),
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **options: Unpack[requests.TokenizeOptions],
    ) -> TokenizeResponse:
        """The tokens of a text, or of a list of messages: `client.tokenize("llama-70b", "Hello").count`."""
        return await self._call(rpcs.TOKENIZE, requests.tokenize_request(model, text, options), timeout, metadata)

    async def detokenize(
        self,
        model: str | DetokenizeRequest,
        tokens: Iterable[int] = (),
        /,
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
        **options: Unpack[requests.Options],
    ) -> DetokenizeResponse:
        """The text of tokens: `client.detokenize("llama-70b", [9906]).prompt`."""
        request = requests.detokenize_request(model, tokens, options)
        return await self._call(rpcs.DETOKENIZE, request, timeout, metadata)

    async def models(self, *, timeout: float | None = None, metadata: Metadata = ()) -> AsyncIterator[Model]:
        """The models that the caller may use, by name."""
        token = ""
        while True:
            request = ListModelsRequest(page_token=token)
            page = await self._call(rpcs.LIST_MODELS, request, timeout, metadata)
            for model in page.models:
                yield model
            token = page.next_page_token
            if not token:
                return

    async def model(self, name: str, *, timeout: float | None = None, metadata: Metadata = ()) -> Model:
        """One of them. Raises MODEL_NOT_FOUND."""
        return (await self._call(rpcs.GET_MODEL, GetModelRequest(id=name), timeout, metadata)).model

    def infer(
        self,
        operation: str | InferRequest,
        body: Json | str = "",
        *,
        cluster: str = "",
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> AsyncStream[InferResponse, RawAnswer]:
        """A call with OpenAI's JSON, for what has no call of its own. An error of the model server's is an answer, with
        its status.

            await client.infer("responses", {"model": "llama-70b", "input": "Hello"}).result()
        """
        return self._stream(rpcs.INFER, requests.infer_request(operation, body, cluster), timeout, metadata)

    async def _call(
        self, rpc: Rpc[Request, Answer], request: Request, timeout: float | None, metadata: Metadata
    ) -> Answer:
        calling = Calling(self._settings, timeout, metadata)
        while True:
            try:
                answer: Answer = await (await self._start(rpc.name, request, calling))
                return answer
            except grpc.RpcError as failed:
                pause = calling.failed(failed)
            except asyncio.CancelledError:
                calling.cancelled()
                raise
            await self._sleep(pause)

    def _stream(
        self, rpc: StreamRpc[Request, Piece, Whole], request: Request, timeout: float | None, metadata: Metadata
    ) -> AsyncStream[Piece, Whole]:
        calling = Calling(self._settings, timeout, metadata)
        return AsyncStream(rpc, calling, lambda calling: self._start(rpc.name, request, calling), self._sleep)

    async def _start(self, name: str, request: object, calling: Calling) -> Any:
        """One attempt. The token is asked for first, as that may take a part of the time."""
        if self._stub is None:  # gRPC binds a channel to the loop in which it is made
            self._channel = self._settings.target.dial_async()
            self._stub = InferenceServiceStub(self._channel)
        credential = self._settings.credential
        metadata = calling.metadata(await credential.token_async() if credential else None)
        return getattr(self._stub, name)(request, timeout=calling.remaining, metadata=metadata)
