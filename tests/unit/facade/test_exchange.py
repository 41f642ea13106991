"""One exchange: what goes out to the client for what comes from the mesh, and when the call is let go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from services.core.errors import Reason, ServiceError
from services.core.inference import Head
from services.facade.exchange import Answer
from tests.testing.streams import Answerer, Served, request

CHAT = "/v1/chat/completions"
EVENTS = Head(200, (("content-type", "text/event-stream; charset=utf-8"),))
JSON = Head(200, (("content-type", "application/json"), ("content-length", "2"), ("x-request-id", "vllm's own")))
LOST = ServiceError(Reason.WORKER_LOST, "Gone.")


class Client:
    """A client's connection, which takes what is sent once `reads` is set, and keeps it."""

    def __init__(self) -> None:
        self.on_leave: Callable[[], None] | None = None
        self.aborted = False
        self.messages: list[dict[str, Any]] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.sent = asyncio.Event()

    def abort(self) -> None:
        """See `Connection.abort`."""
        self.aborted = True

    def send_now(self, body: bytes) -> bool:
        """See `Connection.send_now`."""
        if self.reads.is_set():
            self.messages.append({"body": body})
        return self.reads.is_set()

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI's `send`."""
        self.messages.append(message)
        self.sent.set()
        await self.reads.wait()

    @property
    def body(self) -> bytes:
        """What has been sent of the body."""
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def ended(self) -> bool:
        """Whether the answer has been ended properly."""
        return bool(self.messages) and self.messages[-1].get("more_body") is False


class Exchange:
    """A client, an inference whose call the test answers, and the relay between them."""

    def __init__(self, *, operation: str = CHAT, window: int = 1000) -> None:
        self.client = Client()
        self.answerer = Answerer()
        self.answer = Answer(self.client.send, self.client, operation, b"id-1")
        self._relay: Callable[[], Awaitable[None]] = lambda: self.answer.relay(self.answerer, request(), window)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        await self._relay()

    async def opened(self) -> Served:
        """The call, once it is made."""
        await self.answerer.arrived.wait()
        return self.answerer.calls[0]

    async def over(self) -> None:
        """Waits for the end of the relay, and raises what it raises."""
        async with asyncio.timeout(10):
            await self.task


async def test_an_answer_goes_out_as_it_is() -> None:
    exchange = Exchange()
    call = await exchange.opened()
    call.receiver.head(JSON)
    call.receiver.data(b"{")
    call.receiver.data(b"}")
    call.receiver.end()
    await exchange.over()
    start = exchange.client.messages[0]
    assert (start["status"], exchange.answer.status) == (200, 200)
    assert start["headers"] == [
        (b"content-type", b"application/json"),
        (b"content-length", b"2"),
        (b"x-request-id", b"id-1"),
    ]
    assert (exchange.client.body, exchange.client.ended) == (b"{}", True)
    assert exchange.client.on_leave is None


async def test_an_empty_answer() -> None:
    exchange = Exchange()
    call = await exchange.opened()
    call.receiver.head(JSON)
    call.receiver.end()
    await exchange.over()
    assert (exchange.client.body, exchange.client.ended) == (b"", True)


@pytest.mark.parametrize("head", [None, JSON, EVENTS])
async def test_a_failure_before_the_first_byte_is_raised(head: Head | None) -> None:
    exchange = Exchange()
    call = await exchange.opened()
    if head is not None:
        call.receiver.head(head)
    call.receiver.fail(LOST)
    with pytest.raises(ServiceError, match="Gone"):
        await exchange.over()
    assert exchange.client.messages == []


async def test_a_failure_amid_a_body_cuts_the_connection() -> None:
    exchange = Exchange()
    call = await exchange.opened()
    call.receiver.head(JSON)
    call.receiver.data(b"{")
    call.receiver.fail(LOST)
    await exchange.over()
    assert exchange.client.aborted
    assert not exchange.client.ended


@pytest.mark.parametrize("operation", [CHAT, "/v1/responses", "/v1/messages"])
async def test_a_failure_amid_a_stream_is_its_last_event(operation: str) -> None:
    exchange = Exchange(operation=operation)
    call = await exchange.opened()
    call.receiver.head(EVENTS)
    call.receiver.data(b"data: one\n\nda")
    await exchange.client.sent.wait()
    call.receiver.data(b"ta: tw")
    call.receiver.fail(LOST)
    await exchange.over()
    whole, _, error = exchange.client.body.partition(b"\n\n")
    assert whole == b"data: one"
    assert error.startswith((b"data: {", b"event: error\ndata: {"))
    assert b"Gone." in error
    assert b"tw" not in exchange.client.body
    assert b"[DONE]" not in exchange.client.body
    assert exchange.client.ended
    assert not exchange.client.aborted


async def test_what_is_left_of_a_stream_that_ends_well_goes_out() -> None:
    exchange = Exchange()
    call = await exchange.opened()
    call.receiver.head(EVENTS)
    call.receiver.data(b"data: one\n\ndata: two")
    call.receiver.end()
    await exchange.over()
    assert exchange.client.body == b"data: one\n\ndata: two"


async def test_a_client_that_leaves_ends_the_call_at_once() -> None:
    exchange = Exchange()
    call = await exchange.opened()
    await asyncio.sleep(0)
    assert exchange.client.on_leave is not None
    exchange.client.on_leave()
    assert call.cancelled  # in the same turn of the loop: a GPU is at work
    exchange.answer._call = None  # the fake refuses a second cancel, which real calls allow
    await asyncio.gather(exchange.task, return_exceptions=True)
    assert exchange.answer.status == 499


async def test_no_credit_is_given_for_what_the_client_has_not_taken() -> None:
    exchange = Exchange(window=1000)
    call = await exchange.opened()
    assert call.credit == 1000
    exchange.client.reads.clear()
    call.receiver.head(JSON)
    call.data(b"x" * 600)
    await exchange.client.sent.wait()
    await asyncio.sleep(0)
    assert call.credit == 400
    exchange.client.reads.set()
    call.receiver.end()
    await exchange.over()
    assert len(exchange.client.body) == 600


async def test_credit_comes_back_by_halves_of_the_window() -> None:
    exchange = Exchange(window=1000)
    call = await exchange.opened()
    call.receiver.head(EVENTS)
    for number in range(100):
        call.data(b"data: %d\n\n" % (number + 100))
        await asyncio.sleep(0)
        assert 490 <= call.credit <= 1000
    call.receiver.end()
    await exchange.over()
    assert exchange.client.body == bytes(call.sent)


async def test_an_error_never_follows_half_an_event_that_was_let_go() -> None:
    exchange = Exchange(window=2**24)
    call = await exchange.opened()
    call.receiver.head(EVENTS)
    call.receiver.data(b"data: " + b"x" * 5_000_000)
    call.receiver.fail(LOST)
    await exchange.over()
    assert exchange.client.aborted
    assert not exchange.client.ended
