"""The end of a facade's stream, when the router stops: nothing that is queued for it is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from weft.inference.v1 import inference_pb2
from weft.session.v1 import frame_pb2

from services.router import inference_servicer
from services.router.inference_servicer import InferenceServicer
from services.router.permits import Permits
from services.router.roster import Roster
from services.rpc.limits import MuxLimits
from tests.testing.streams import Answerer


class Facade:
    """A facade's end of the stream, which reads only while `reads` is set."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.reads.set()
        self.writing = asyncio.Event()
        self.frames: list[frame_pb2.Frame] = []
        hello = frame_pb2.Frame(hello=frame_pb2.Hello(version=1, agent="facade"))
        opened = frame_pb2.Frame(call=1, open=frame_pb2.Open(operation="/v1/completions", complete=True, credit=99))
        self._says = [inference_pb2.MultiplexRequest(frames=[hello, opened])]

    async def read(self) -> object:
        if self._says:
            return self._says.pop()
        await asyncio.Event().wait()
        return grpc.aio.EOF

    async def write(self, message: inference_pb2.MultiplexResponse) -> None:
        self.writing.set()
        await self.reads.wait()
        self.frames += message.frames

    @property
    def kinds(self) -> list[str | None]:
        return [frame.WhichOneof("kind") for frame in self.frames]


class Gateway(Answerer):
    """Takes calls from facades alone."""

    @property
    def behind_facades(self) -> Answerer:
        return self


class Router:
    """A router with one facade, whose call is being answered, and which has stopped reading in the middle."""

    def __init__(self) -> None:
        self.answerer = Gateway()
        self.facade = Facade()
        roster = Roster(settle=0)
        self.servicer = InferenceServicer(self.answerer, roster, Permits(roster), MuxLimits(), agent="router")
        messages: Any = None  # the servicer reads by its context
        context: Any = self.facade
        self.task = asyncio.create_task(self.servicer.Multiplex(messages, context))

    async def answer(self) -> None:
        """Answers the call, of which the end is queued behind a write that waits."""
        await self.answerer.arrived.wait()
        (served,) = self.answerer.calls
        served.head()
        self.facade.reads.clear()
        self.facade.writing.clear()
        served.data(b"x")
        await self.facade.writing.wait()
        served.data(b"y")
        served.receiver.end()


async def test_the_ends_of_calls_are_written_before_the_stream_ends() -> None:
    router = Router()
    await router.answer()
    ending = asyncio.create_task(router.servicer.end())
    await asyncio.sleep(0)
    router.facade.reads.set()
    await ending
    await router.task
    assert router.facade.kinds[-3:] == ["data", "end", "error"], "its answer was cut, though it was whole"


async def test_a_facade_that_does_not_read_holds_up_no_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_servicer, "_SETTLING", 0.01)
    router = Router()
    await router.answer()
    await router.servicer.end()
    router.facade.reads.set()
    await router.task
    assert router.facade.kinds[-1] == "error"
