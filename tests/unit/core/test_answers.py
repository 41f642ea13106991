"""A call as an iterator."""

import asyncio
from contextlib import aclosing

import pytest

from services.core.answers import collect, stream
from services.core.errors import Reason, ServiceError
from services.core.inference import Head
from tests.testing.streams import Answerer, request


async def test_the_head_then_chunks_each_granted_anew() -> None:
    answerer = Answerer()
    parts = stream(answerer, request(), window=10)
    head = asyncio.ensure_future(anext(parts))
    await answerer.arrived.wait()
    (served,) = answerer.calls
    served.head(201)
    assert (await head) == Head(201, (("content-type", "text/plain"),))
    served.data(b"0123456789")
    assert served.credit == 0
    assert await anext(parts) == b"0123456789"
    end = asyncio.ensure_future(anext(parts, None))
    served.receiver.end()
    assert await end is None
    assert served.credit == 10


async def test_leaving_the_iteration_cancels_the_call() -> None:
    answerer = Answerer()
    async with aclosing(stream(answerer, request())) as parts:
        head = asyncio.ensure_future(anext(parts))
        await answerer.arrived.wait()
        answerer.calls[0].head()
        await head
    assert answerer.calls[0].cancelled


async def test_a_call_collected_whole() -> None:
    answerer = Answerer()
    whole = asyncio.ensure_future(collect(answerer, request()))
    await answerer.arrived.wait()
    served = answerer.calls[0]
    served.head()
    served.data(b"ab")
    served.data(b"cd")
    served.receiver.end()
    head, body = await whole
    assert (head.status, body) == (200, b"abcd")


async def test_a_call_that_breaks_off_raises() -> None:
    answerer = Answerer()
    whole = asyncio.ensure_future(collect(answerer, request()))
    await answerer.arrived.wait()
    answerer.calls[0].head()
    answerer.calls[0].data(b"ab")
    answerer.calls[0].receiver.fail(ServiceError(Reason.WORKER_LOST))
    with pytest.raises(ServiceError) as caught:
        await whole
    assert caught.value.reason is Reason.WORKER_LOST
