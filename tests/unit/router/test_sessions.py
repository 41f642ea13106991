"""Workers' sessions: replaced, expired, renewed, and what a report makes of its server."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import pytest
from weft.session.v1 import frame_pb2, session_pb2

from services.core.catalogue import Catalogue, Endpoint, SessionBackend
from services.core.errors import Reason, ServiceError
from services.router.backends.session import Sessions
from services.router.roster import Roster
from services.rpc.session_token import SessionClaims

ENDPOINT = "clusters/one/endpoints/vllm"
SOON = 20.0


class Stream:
    """A worker's end of its stream, in the hands of the test."""

    def __init__(self) -> None:
        self._arriving: asyncio.Queue[Any] = asyncio.Queue()
        self.told: list[frame_pb2.Frame] = []

    async def read(self) -> Any:
        return await self._arriving.get()

    async def write(self, message: Any) -> None:
        self.told.extend(message.frames)

    def say(self, **kind: object) -> None:
        """Sends a frame as the worker."""
        self._arriving.put_nowait(session_pb2.ConnectRequest(frames=[frame_pb2.Frame(**kind)]))  # type: ignore[arg-type]

    def hang_up(self) -> None:
        self._arriving.put_nowait(grpc.aio.EOF)

    @property
    def farewell(self) -> int:
        """The reason of the error that the worker was told."""
        return next(frame.error.reason for frame in self.told if frame.WhichOneof("kind") == "error")


class WatchedRoster(Roster):
    """Tells of each change."""

    def __init__(self) -> None:
        super().__init__(settle=0)
        self.changed = asyncio.Event()

    def refresh(self) -> None:
        super().refresh()
        self.changed.set()


class Attached:
    """A roster that tells of every change, and its sessions."""

    def __init__(self) -> None:
        self.roster = WatchedRoster()
        self.roster.set_catalogue(Catalogue.of([Endpoint(ENDPOINT, SessionBackend())]))
        self.sessions = Sessions(self.roster, agent="router")

    def dial(self, expires_in: float = 3600, instance: str = "i") -> tuple[Stream, asyncio.Task[None]]:
        stream = Stream()
        claims = SessionClaims(ENDPOINT, instance, "workers/w", time.time() + expires_in)
        carried = asyncio.get_running_loop().create_task(self.sessions.carry(claims, "peer", stream))
        stream.say(hello=frame_pb2.Hello(version=1, agent="worker", max_calls=4))
        return stream, carried

    async def until_changed(self) -> None:
        """Waits for the next change of the roster."""
        self.roster.changed.clear()
        await asyncio.wait_for(self.roster.changed.wait(), SOON)


def report(card: str = "", state: frame_pb2.WorkerState.ValueType = frame_pb2.WORKER_STATE_READY) -> frame_pb2.Report:
    models = [frame_pb2.ServedModel(id="m", card_json=card)]
    return frame_pb2.Report(state=state, models=models, max_calls=4)


async def reason_of(carried: asyncio.Task[None]) -> Reason:
    with pytest.raises(ServiceError) as caught:
        await asyncio.wait_for(carried, SOON)
    return caught.value.reason


async def test_a_worker_serves_from_its_first_report_until_it_hangs_up():
    attached = Attached()
    stream, carried = attached.dial()
    stream.say(report=report('{"id":"m"}'))
    while not attached.roster.find("m"):
        await attached.until_changed()
    (target,) = attached.roster.find("m") or ()
    assert (target.server.ready, target.server.max_calls) == (True, 4)
    stream.say(report=report(state=frame_pb2.WORKER_STATE_UNHEALTHY))
    await attached.until_changed()
    assert not target.server.ready
    stream.say(drain=frame_pb2.Drain())
    await attached.until_changed()
    assert target.server.draining
    stream.hang_up()
    await asyncio.wait_for(carried, SOON)
    assert (attached.roster.servers, len(attached.sessions), attached.roster.find("m")) == ((), 0, ())


@pytest.mark.parametrize("card", ["nonsense", "[]", '"m"', "{"])
async def test_a_report_that_would_spoil_the_list_of_models_ends_its_own_stream(card):
    attached = Attached()
    stream, carried = attached.dial()
    other, other_carried = attached.dial(instance="j")
    stream.say(report=report(card))
    assert await reason_of(carried) is Reason.PROTOCOL_VIOLATION
    assert not other_carried.done()
    other.hang_up()
    await other_carried


async def test_what_a_worker_says_in_words_is_bounded_and_does_nothing_to_a_terminal():
    attached = Attached()
    stream, carried = attached.dial()
    job = frame_pb2.Job(id="7\x1b[2J", host="n1\nn2", account="a" * 10_000)
    told = frame_pb2.Report(state=frame_pb2.WORKER_STATE_READY, detail="vLLM\x1b]0;x\x07 é" + "x" * 10_000, job=job)
    stream.say(report=told)
    await attached.until_changed()
    while not attached.roster.servers[0].ready:
        await attached.until_changed()
    (session,) = attached.sessions
    shown = session.describe().report
    assert shown.detail.startswith("vLLM ]0;x  éx")
    assert (shown.job.id, shown.job.host) == ("7 [2J", "n1 n2")
    assert len(shown.detail) == len(shown.job.account) == 500
    stream.hang_up()
    await carried


async def test_a_report_that_would_drown_the_others_ends_its_own_stream():
    attached = Attached()
    stream, carried = attached.dial()
    models = [frame_pb2.ServedModel(id=f"{number}" + "m" * 1000) for number in range(300)]
    stream.say(report=frame_pb2.Report(state=frame_pb2.WORKER_STATE_READY, models=models))
    assert await reason_of(carried) is Reason.PROTOCOL_VIOLATION
    assert attached.roster.models == ()


async def test_a_worker_that_is_asked_to_end_is_given_no_more_calls_whatever_it_says():
    attached = Attached()
    stream, carried = attached.dial()
    stream.say(report=report())
    while not attached.roster.find("m"):
        await attached.until_changed()
    attached.sessions.stop(ENDPOINT, "i", "its start was revoked")
    (target,) = attached.roster.find("m") or ()
    assert target.server.draining
    stream.say(report=report(state=frame_pb2.WORKER_STATE_UNHEALTHY))
    await attached.until_changed()
    stream.say(report=report())
    await attached.until_changed()
    assert (target.server.ready, target.server.draining) == (True, True)
    with pytest.raises(ServiceError):
        attached.sessions.stop(ENDPOINT, "j", "")
    stream.hang_up()
    await carried
    assert [frame.stop.why for frame in stream.told if frame.HasField("stop")] == ["its start was revoked"]


async def test_a_session_ends_with_its_token():
    attached = Attached()
    stream, carried = attached.dial(expires_in=-1)
    assert await reason_of(carried) is Reason.CREDENTIAL_EXPIRED
    assert stream.farewell == Reason.CREDENTIAL_EXPIRED.value
    assert attached.roster.servers == ()


async def test_a_renewed_token_lengthens_its_session_alone_and_never_shortens_it():
    attached = Attached()
    stream, carried = attached.dial(expires_in=100)
    await attached.until_changed()
    (session,) = attached.sessions
    first = session.expires_at
    attached.sessions.renew(SessionClaims(ENDPOINT, "another", "workers/w", first + 50))
    attached.sessions.renew(SessionClaims(ENDPOINT, "i", "workers/w", first - 50))
    assert session.expires_at == first
    attached.sessions.renew(SessionClaims(ENDPOINT, "i", "workers/w", first + 50))
    assert session.expires_at == first + 50
    stream.hang_up()
    await carried


async def test_the_same_worker_dialling_again_replaces_its_first_session():
    attached = Attached()
    first, first_carried = attached.dial()
    await attached.until_changed()
    second, second_carried = attached.dial()
    await asyncio.wait_for(first_carried, SOON)
    assert first.farewell == Reason.WORKER_LOST.value
    assert (len(attached.roster.servers), len(attached.sessions), second_carried.done()) == (1, 1, False)
    second.hang_up()
    await second_carried
