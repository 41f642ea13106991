"""The workers of starts, as the routers see them; and how they are told to end."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import grpc
from weft.session.v1 import frame_pb2, session_pb2, session_pb2_grpc

from services.core.errors import Reason
from services.launcher.machine import Seen, short
from services.rpc.channel import bearer
from services.rpc.errors import from_rpc_error
from services.rpc.wire import PLAIN, Wire

log = logging.getLogger(__name__)

_TIMEOUT: Final = 3.0


@dataclass(frozen=True, slots=True)
class Place:
    """One session of a worker: the router that has it, and its name there."""

    router: str
    endpoint: str
    instance: str


@dataclass(frozen=True, slots=True)
class Sightings:
    """What was seen at one look, by starts' ids. `complete` if every router answered: only then is a worker missing
    that was not seen.
    """

    complete: bool = False
    workers: Mapping[str, Seen] = field(default_factory=dict)
    places: Mapping[str, tuple[Place, ...]] = field(default_factory=dict)


class Routers:
    """All routers, by their addresses. To be entered."""

    def __init__(
        self,
        addresses: Sequence[str],
        key: Callable[[], str],
        *,
        clock: Callable[[], float] = time.monotonic,
        wire: Wire = PLAIN,
    ) -> None:
        self._key = key
        self._clock = clock
        self._away_at = -math.inf
        self._channels = {address: wire.dial(address, "router") for address in addresses}
        self._stubs = {
            address: session_pb2_grpc.SessionServiceStub(channel) for address, channel in self._channels.items()
        }
        self._away: set[str] = set()
        self.latest = Sightings()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    async def watch(self, interval: float, changed: Callable[[], None]) -> None:
        """Looks again and again, until cancelled, and keeps the `latest`; `changed` is called when workers have come,
        gone or changed.
        """
        while True:
            before, self.latest = self.latest, await self.look()
            if _summary(before) != _summary(self.latest):
                changed()
            await asyncio.sleep(interval)

    async def look(self) -> Sightings:
        """Asks all of them at once. A router that does not answer is told of in the log, once."""
        answers = await asyncio.gather(*(self._sessions(address) for address in self._stubs))
        found = [
            (Place(address, session.endpoint, session.instance), session)
            for address, sessions in zip(self._stubs, answers, strict=True)
            for session in sessions or ()
            if session.start
        ]
        return merge(found, complete=None not in answers)

    def was_away(self, within: float) -> bool:
        """Whether a router did not answer us ourselves at some time within the last so many seconds."""
        return self._clock() - self._away_at < within

    async def stop(self, places: Iterable[Place], why: str) -> None:
        """Asks a worker to finish its calls and end, at each router that has it. Does not raise: it is asked again."""
        for place in places:
            request = session_pb2.StopSessionRequest(endpoint=place.endpoint, instance=place.instance, why=why)
            try:
                stub = self._stubs[place.router]
                await stub.StopSession(request, metadata=bearer(self._key()), timeout=_TIMEOUT)
            except (grpc.RpcError, OSError) as error:
                log.warning("could not ask the worker %s to end: %s", place.instance, _said(error))

    async def _sessions(self, address: str) -> list[session_pb2.Session] | None:
        sessions: list[session_pb2.Session] = []
        request = session_pb2.ListSessionsRequest(page_size=1000)
        try:
            while True:
                answer = await self._stubs[address].ListSessions(
                    request, metadata=bearer(self._key()), timeout=_TIMEOUT
                )
                sessions += answer.sessions
                request.page_token = answer.next_page_token
                if not request.page_token:
                    break
        except (grpc.RpcError, OSError) as error:
            if address not in self._away:
                log.warning("the router at %s does not tell of its workers: %s", address, _said(error))
            self._away.add(address)
            self._away_at = self._clock()
            return None
        self._away.discard(address)
        return sessions


def merge(found: Iterable[tuple[Place, session_pb2.Session]], *, complete: bool) -> Sightings:
    """One view of each start's worker, which may be attached to several routers."""
    sessions: dict[str, list[session_pb2.Session]] = {}
    places: dict[str, list[Place]] = {}
    for place, session in found:
        sessions.setdefault(session.start, []).append(session)
        places.setdefault(session.start, []).append(place)
    workers = {start: _seen(several) for start, several in sessions.items()}
    return Sightings(complete, workers, {start: tuple(several) for start, several in places.items()})


def _seen(sessions: Sequence[session_pb2.Session]) -> Seen:
    # A session without a report has just begun; what another router heard is truer.
    told = [session for session in sessions if session.report.state] or list(sessions)
    states = {session.report.state for session in told}
    report = max(told, key=lambda session: session.report.state == frame_pb2.WORKER_STATE_READY).report
    return Seen(
        told[0].instance,
        ready=frame_pb2.WORKER_STATE_READY in states,
        draining=frame_pb2.WORKER_STATE_DRAINING in states,
        detail=short(report.detail),
        job=short(report.job.id),
        host=short(report.job.host),
        job_end=_job_end(report.job) if report.job.HasField("end_time") else None,
        open_calls=sum(session.open_calls for session in sessions),
        ended_calls=sum(session.ended_calls for session in sessions),
    )


def _job_end(job: frame_pb2.Job) -> float | None:
    try:
        return job.end_time.ToMilliseconds() / 1000
    except ValueError:  # no time that there is: the worker's error, and no reason to see no worker any more
        return None


def _summary(sightings: Sightings) -> frozenset[tuple[str, str, bool, bool]]:
    return frozenset((start, seen.instance, seen.ready, seen.draining) for start, seen in sightings.workers.items())


def _said(error: Exception) -> str:
    if isinstance(error, grpc.RpcError):
        return from_rpc_error(error, unavailable=Reason.ROUTER_UNAVAILABLE).message
    return str(error)
