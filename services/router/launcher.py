"""The router's connection to the launcher: hears how far the starts of workers are, and says which calls wait for them.

Nothing is dialled before it is needed. A launcher that is away ends no call: only how far the starts are is not known.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from typing import Final

import grpc
from weft.launcher.v1 import launcher_pb2, launcher_pb2_grpc

from services.core.errors import Reason, ServiceError
from services.router.cold import ColdEndpoint, ColdEndpoints, StartState, cause, wants
from services.router.roster import Roster
from services.rpc.channel import bearer
from services.rpc.errors import from_rpc_error
from services.rpc.wire import PLAIN, Wire

log = logging.getLogger(__name__)

FIRST_BACKOFF: Final = 0.1
LONGEST_BACKOFF: Final = 2.0
SILENCE: Final = 15.0
"""Seconds without a message after which the launcher is taken for dead; it sends one every five at least."""
UNHEARD: Final = 20.0
"""Seconds after which a launcher that has never answered is taken for one that does not run."""
REPEAT: Final = 3.0
"""Seconds after which a want is said again; the launcher forgets one that is not."""
_WANT_TIMEOUT: Final = 5.0
_EARLY: Final = 0.2
_AT_ONCE: Final = 8


class Launcher:
    """The launcher behind `channel`, at `address`, as this router, `name`, sees it.

    `key` gives the credential for each attempt, so that a rotated one is taken up; it may raise OSError.
    """

    def __init__(
        self,
        address: str,
        channel: grpc.aio.Channel,
        key: Callable[[], str],
        roster: Roster,
        cold: ColdEndpoints,
        *,
        name: str,
        silence: float = SILENCE,
        wire: Wire = PLAIN,
    ) -> None:
        self.connected = False
        self._address = address
        self._stub = launcher_pb2_grpc.LauncherServiceStub(channel)
        self._key = key
        self._roster = roster
        self._cold = cold
        self._name = name
        self._silence = silence
        self._wire = wire
        self._needed = asyncio.Event()
        self._stirred = asyncio.Event()
        self._said: dict[str, float] = {}
        self._saying: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tasks: list[asyncio.Task[None]] = []
        self._giving_up: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins, as soon as the catalogue has an endpoint that workers are started for."""
        loop = asyncio.get_running_loop()
        self._roster.waiting_calls.changed = self._stirred.set
        self._tasks = [loop.create_task(self._watch_on()), loop.create_task(self._want_on())]

    def catalogue_changed(self) -> None:
        """The roster has another catalogue."""
        if self._roster.launchables:
            self._needed.set()
        else:
            self._needed.clear()
        self._stirred.set()

    async def close(self) -> None:
        """Says that nobody waits here any more, and ends."""
        self._stop_giving_up()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._saying.values(), return_exceptions=True)
        if self.connected:
            await asyncio.gather(*(self._say(endpoint, 0) for endpoint in self._said))

    # How far the starts are

    async def _watch_on(self) -> None:
        said, backoff = "", FIRST_BACKOFF
        await self._needed.wait()
        self._giving_up = asyncio.get_running_loop().call_later(UNHEARD, self._give_up)
        while True:
            await self._needed.wait()
            try:
                await self._watch()
                problem = "it ended the stream"
            except TimeoutError:
                problem = f"no message came for {self._silence:g} s"
            except grpc.RpcError as error:
                problem = from_rpc_error(error, unavailable=Reason.LAUNCHER_UNAVAILABLE).message
            except (OSError, ServiceError) as error:  # no key to show yet
                problem = str(error)
            if self.connected or problem != said:  # once, not at each of many attempts
                log.warning("the launcher at %s is away: %s", self._address, problem)
                said = problem
            backoff = FIRST_BACKOFF if self.connected else min(backoff * 2, LONGEST_BACKOFF)
            self.connected = False
            self._cold.replace({})
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))

    def _stop_giving_up(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()

    def _give_up(self) -> None:
        self._cold.give_up(frozenset(one.endpoint for one in self._roster.launchables))

    async def _watch(self) -> None:
        # A connection of its own each time: gRPC would otherwise hand the dead one of a silent host out again.
        async with self._wire.dial(self._address, "launcher", ("grpc.use_local_subchannel_pool", 1)) as channel:
            stub = launcher_pb2_grpc.LauncherServiceStub(channel)
            stream = stub.Watch(launcher_pb2.WatchRequest(), metadata=bearer(self._key()))
            while True:
                async with asyncio.timeout(self._silence):
                    message = await stream.read()
                if not isinstance(message, launcher_pb2.WatchResponse):
                    return
                states = {state.endpoint: _to_cold(state) for state in message.endpoints}
                if self.connected:
                    self._cold.learn({**dict.fromkeys(message.gone), **states})
                else:
                    log.info("watching the launcher", extra={"address": self._address})
                    self.connected = True
                    self._stop_giving_up()
                    self._cold.unheard = False
                    self._cold.replace(states)
                    self._said.clear()  # it may be another that knows nothing of what waits
                    self._stirred.set()

    # Who waits

    async def _want_on(self) -> None:
        while True:
            self._stirred.clear()
            repeat = self._say_all()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stirred.wait(), REPEAT if repeat else None)

    def _say_all(self) -> bool:
        """Says what the launcher has not heard; returns whether to look again soon, though nobody begins to wait."""
        roster, now = self._roster, time.monotonic()
        wanted = wants(self._cold, roster.waiting_calls.counts, roster.launchable)
        for endpoint in wanted.keys() | self._said.keys():
            waiting, said_at = wanted[endpoint], self._said.get(endpoint)
            if endpoint in self._saying or (waiting and said_at is not None and now < said_at + REPEAT - _EARLY):
                continue
            if waiting:
                self._said[endpoint] = now
            else:
                del self._said[endpoint]
            self._saying[endpoint] = task = asyncio.get_running_loop().create_task(self._say(endpoint, waiting))
            task.add_done_callback(lambda _, endpoint=endpoint: self._was_said(endpoint))  # type: ignore[misc]
        return bool(wanted or self._said)

    def _was_said(self, endpoint: str) -> None:
        del self._saying[endpoint]
        self._stirred.set()  # Meanwhile it may be otherwise.

    def _cause(self, endpoint: str) -> str:
        calls = self._roster.waiting_calls
        waiting = {sought: calls.traced(sought) for sought in calls.counts}
        return cause(self._cold, waiting, self._roster.launchable, endpoint)

    async def _say(self, endpoint: str, waiting: int) -> None:
        request = launcher_pb2.WantRequest(
            endpoint=endpoint, router=self._name, waiting=waiting, traceparent=self._cause(endpoint)
        )
        try:
            async with self._slots:
                answer = await self._stub.Want(request, metadata=bearer(self._key()), timeout=_WANT_TIMEOUT)
        except (grpc.RpcError, OSError) as error:
            why = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
            log.info("the launcher did not hear that %d calls want '%s': %s", waiting, endpoint, why)
        else:
            if self.connected:
                self._cold.learn({endpoint: _to_cold(answer.state)})


def _to_cold(state: launcher_pb2.EndpointState) -> ColdEndpoint:
    try:
        start = StartState(state.state)
    except ValueError:
        start = StartState.NONE  # a state that a newer launcher has
    return ColdEndpoint(start, state.detail, float(state.retry_after_s), state.tasks, state.failed)
