"""A call as an iterator."""

import asyncio
from contextlib import aclosing

import pytest

from services.core.answers import ReadyAnswer, collect, stream
from services.core.errors import Reason, ServiceError
from services.core.inference import Head
from tests.testing.streams import Answer, Answerer, request


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


HEAD = Head(200, ())


def ready(answer: tuple[Head, bytes] | ServiceError, credit: int) -> tuple[ReadyAnswer, Answer]:
    answered = Answer()
    call = ReadyAnswer(answer, answered, credit)
    answered.opened = True
    return call, answered


def test_a_ready_answer_comes_within_the_credit() -> None:
    call, answer = ready((HEAD, b"0123456789"), 4)
    call.tell()
    assert (answer.heads, bytes(answer.body), answer.ends) == ([HEAD], b"0123", [])
    call.grant(5)
    assert (bytes(answer.body), answer.ends) == (b"012345678", [])
    call.grant(5)
    assert (bytes(answer.body), answer.ends) == (b"0123456789", [None])
    call.grant(5)
    call.cancel()


def test_an_empty_ready_answer_needs_no_credit() -> None:
    call, answer = ready((HEAD, b""), 0)
    call.tell()
    assert (answer.heads, answer.ends) == ([HEAD], [None])


def test_credit_that_comes_before_the_answer_counts() -> None:
    call, answer = ready((HEAD, b"0123456789"), 4)
    call.grant(6)
    assert answer.heads == []
    call.tell()
    assert (bytes(answer.body), answer.ends) == (b"0123456789", [None])


def test_a_receiver_that_grants_on_each_piece_gets_each_once() -> None:
    call, answer = ready((HEAD, b"0123456789"), 1)
    answer.on_data = lambda chunk: call.grant(len(chunk))
    call.tell()
    assert (bytes(answer.body), answer.ends) == (b"0123456789", [None])


def test_a_ready_refusal_is_told_once() -> None:
    error = ServiceError(Reason.OVERLOADED)
    call, answer = ready(error, 0)
    call.grant(1)
    call.tell()
    call.grant(1)
    assert (answer.heads, answer.ends) == ([], [error])


def test_whoever_left_before_the_answer_hears_nothing() -> None:
    call, answer = ready((HEAD, b"0123"), 10)
    call.cancel()
    answer.left = True
    call.tell()
    call.grant(1)


def test_whoever_leaves_in_the_answer_hears_no_more() -> None:
    call, answer = ready((HEAD, b"0123"), 2)
    call.tell()
    call.cancel()
    answer.left = True
    call.grant(2)
    assert bytes(answer.body) == b"01"
