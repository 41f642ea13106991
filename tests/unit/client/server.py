"""A real gRPC server whose answers a test writes by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from weft.inference.v1 import chat_pb2, inference_pb2, inference_pb2_grpc, usage_pb2
from weft.session.v1 import frame_pb2

from services.core.errors import ServiceError
from services.rpc.channel import SERVER_OPTIONS
from services.rpc.status import abort

START = chat_pb2.StreamChatResponse(start=chat_pb2.ChatStart(id="chat-1", created=7, model="sim-model"))
END = chat_pb2.StreamChatResponse(
    end=chat_pb2.ChatEnd(
        choices=[chat_pb2.ChoiceEnd(index=0, finish_reason="stop")],
        usage=usage_pb2.Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5),
    )
)


def said(text: str) -> chat_pb2.StreamChatResponse:
    """A piece that says it."""
    return chat_pb2.StreamChatResponse(deltas=[chat_pb2.ChatDelta(content=text)])


def answer(text: str) -> chat_pb2.ChatResponse:
    """A whole answer that says it."""
    message = chat_pb2.ChatMessage(role="assistant", text=text)
    return chat_pb2.ChatResponse(choices=[chat_pb2.ChatChoice(message=message)])


class Servicer(inference_pb2_grpc.InferenceServiceServicer):
    """Answers as its members say, and notes what came: requests, and their metadata."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, dict[str, str]]] = []
        self.failures: list[ServiceError] = []
        """The next calls fail with these, in turn."""
        self.pieces: list[Any] = [START, said("Hel"), said("lo"), END]
        self.hangs = False
        """Whether calls stay open; streams do after their pieces."""
        self.called = asyncio.Event()
        """A call has come."""
        self.left = asyncio.Event()
        """A call that hung was cancelled."""

    async def _note(self, request: Any, context: Any) -> None:
        self.seen.append((request, dict(context.invocation_metadata())))
        self.called.set()
        if self.failures:
            await abort(context, self.failures.pop(0))

    async def Chat(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._note(request, context)
        if self.hangs:
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        return answer("Hello" if len(request.messages) < 2 else request.messages[-1].text)

    async def StreamChat(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        await self._note(request, context)
        for piece in self.pieces:
            if isinstance(piece, ServiceError):
                await abort(context, piece)
            yield piece
        if self.hangs:
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()

    async def ListModels(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Pages of two, of five."""
        await self._note(request, context)
        first = int(request.page_token or 0)
        models = [inference_pb2.Model(id=f"m-{number}") for number in range(first, min(first + 2, 5))]
        return inference_pb2.ListModelsResponse(models=models, next_page_token=str(first + 2) if first < 3 else "")

    async def Infer(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """The body comes back, as text and as bytes."""
        await self._note(request, context)
        header = frame_pb2.Header(name="content-type", value="application/json")
        yield inference_pb2.InferResponse(head=frame_pb2.Head(status=418, headers=[header]))
        yield inference_pb2.InferResponse(text=request.body_json[:4])
        yield inference_pb2.InferResponse(data=request.body_json[4:].encode())


class Server:
    """A server for as long as a test; `address` is on loopback."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.servicer = Servicer()
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self.servicer, self._server)
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{port}"

    async def __aenter__(self) -> Server:
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)
