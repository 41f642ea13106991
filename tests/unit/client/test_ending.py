"""Calls that are left, and deadlines: what the server sees of them."""

import asyncio
import threading

import pytest
from weft.client import AsyncClient, Client, TimedOut, WeftError

from tests.unit.client.server import START, Server, said

PIECES = [START, said("Hel")]


async def test_leaving_a_stream_cancels_it(server: Server) -> None:
    server.servicer.pieces, server.servicer.hangs = PIECES, True
    async with AsyncClient(server.address) as client:
        async with client.stream_chat("m", "Hi") as stream:
            assert await anext(stream.text()) == "Hel"
        await server.servicer.left.wait()
        assert [piece async for piece in stream] == []


async def test_plain_code_leaves_a_stream(server: Server) -> None:
    server.servicer.pieces, server.servicer.hangs = PIECES, True
    seen = threading.Event()

    def ask() -> None:
        with Client(server.address) as client:
            with client.stream_chat("m", "Hi") as stream:
                assert next(stream.text()) == "Hel"
            assert seen.wait(20)  # the client is still there: it is the stream's end that cancels
            assert list(stream) == []

    asking = asyncio.create_task(asyncio.to_thread(ask))
    await server.servicer.left.wait()
    seen.set()
    await asking


@pytest.mark.parametrize("streamed", [False, True])
async def test_cancelling_a_task_cancels_its_call(server: Server, streamed: bool) -> None:
    server.servicer.pieces, server.servicer.hangs = PIECES, True
    begun = asyncio.Event()

    async def ask(client: AsyncClient) -> None:
        if not streamed:
            await client.chat("m", "Hi")
        async for _ in client.stream_chat("m", "Hi"):
            begun.set()

    async with AsyncClient(server.address) as client:
        asking = asyncio.create_task(ask(client))
        if streamed:
            await begun.wait()
        else:
            await server.servicer.called.wait()
        asking.cancel()
        await server.servicer.left.wait()
        with pytest.raises(asyncio.CancelledError):
            await asking


@pytest.mark.parametrize("streamed", [False, True])
async def test_closing_the_client_ends_its_calls_and_cancels_no_task(server: Server, streamed: bool) -> None:
    server.servicer.pieces, server.servicer.hangs = PIECES, True

    async def ask(client: AsyncClient) -> str:
        try:
            await (client.stream_chat("m", "Hi").result() if streamed else client.chat("m", "Hi"))
        except WeftError as error:
            return error.reason
        return "answered"

    async with AsyncClient(server.address) as client:
        asking = asyncio.create_task(ask(client))
        await server.servicer.called.wait()
    assert await asking == "CANCELLED"


async def test_a_stream_of_which_one_reading_was_cancelled_does_not_look_whole(server: Server) -> None:
    server.servicer.pieces, server.servicer.hangs = PIECES, True
    async with AsyncClient(server.address) as client:
        stream = client.stream_chat("m", "Hi")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await stream.result()
        with pytest.raises(WeftError) as failed:
            _ = [piece async for piece in stream]
    assert failed.value.reason == "CANCELLED"


@pytest.mark.parametrize("given", ["client", "call"])
async def test_deadlines_end_calls(server: Server, given: str) -> None:
    server.servicer.hangs = True
    timeout = 0.2
    async with AsyncClient(server.address, timeout=timeout if given == "client" else 600) as client:
        with pytest.raises(TimedOut) as failed:
            await client.chat("m", "Hi", timeout=None if given == "client" else timeout)
    assert failed.value.reason == "DEADLINE_EXCEEDED"
    await server.servicer.left.wait()


async def test_deadlines_end_calls_of_plain_code(server: Server) -> None:
    server.servicer.hangs = True

    def ask() -> None:
        with Client(server.address, timeout=0.2) as client:
            client.chat("m", "Hi")

    with pytest.raises(TimedOut):
        await asyncio.to_thread(ask)


async def test_deadlines_end_streams(server: Server) -> None:
    server.servicer.pieces, server.servicer.hangs = PIECES, True
    async with AsyncClient(server.address) as client:
        stream = client.stream_chat("m", "Hi", timeout=0.3)
        with pytest.raises(TimedOut):
            await stream.result()
    assert stream.so_far().choices[0].message.text == "Hel"
