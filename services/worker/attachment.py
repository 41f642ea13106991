"""A worker's attachment to one router: enrols, dials, keeps the session, renews its token, dials again."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Final

import grpc
from weft.session.v1 import frame_pb2, session_pb2, session_pb2_grpc

from services.core.errors import Reason, ServiceError
from services.core.inference import Inference
from services.rpc.channel import bearer, dial
from services.rpc.errors import from_rpc_error
from services.rpc.limits import MuxLimits
from services.rpc.link import Link

log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
_RPC_TIMEOUT: Final = 10.0

HOPELESS: Final = frozenset(
    {
        Reason.ACTION_FORBIDDEN,
        Reason.ARGUMENT_INVALID,
        Reason.CREDENTIAL_EXPIRED,
        Reason.CREDENTIAL_INVALID,
        Reason.CREDENTIAL_MISSING,
    }
)
"""Refusals that trying again does not cure."""


class _Token:
    """A session token, empty until the worker has enrolled."""

    def __init__(self) -> None:
        self.text = ""
        self.expires = 0.0

    @property
    def life(self) -> float:
        """Seconds that it is still good."""
        return self.expires - time.time()

    def set(self, answer: session_pb2.EnrolResponse | session_pb2.RenewTokenResponse) -> None:
        self.text = answer.token
        self.expires = answer.expire_time.ToMilliseconds() / 1000


class Attachment:
    """Keeps one session to one router. `report` gives the worker's state at any time."""

    def __init__(
        self,
        router: str,
        *,
        endpoint: str,
        instance: str,
        key: Callable[[], str],
        agent: str,
        inference: Inference,
        limits: MuxLimits,
        report: Callable[[], frame_pb2.Report],
    ) -> None:
        self.router = router
        self._endpoint = endpoint
        self._instance = instance
        self._key = key
        self._agent = agent
        self._inference = inference
        self._limits = limits
        self._report = report
        self._token = _Token()
        self._link: Link | None = None
        self._call: grpc.aio.StreamStreamCall[session_pb2.ConnectRequest, session_pb2.ConnectResponse] | None = None
        self._attached_once = False
        self._leaving = False
        self._pause = _FIRST_PAUSE

    async def run(self) -> None:
        """Attaches again and again, until `leave`. Raises `ServiceError` if the first attempt is refused for good."""
        async with dial(self.router) as channel:
            stub = session_pb2_grpc.SessionServiceStub(channel)
            while not self._leaving:
                try:
                    why = await self._attach(stub)
                except (grpc.RpcError, ServiceError) as error:
                    unavailable = Reason.ROUTER_UNAVAILABLE
                    why = error if isinstance(error, ServiceError) else from_rpc_error(error, unavailable=unavailable)
                    if why.reason in HOPELESS and not self._attached_once:
                        raise why from error
                if not self._leaving:
                    wait = random.uniform(
                        self._pause / 2, self._pause
                    )  # so that the workers of a site do not come in step
                    log.warning("not attached to router %s, trying again in %.1f s: %s", self.router, wait, why)
                    await asyncio.sleep(wait)
                    self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def send_report(self) -> None:
        """Tells the router how the worker is doing, if attached."""
        if self._link is not None:
            self._link.mux.report(self._report())

    def drain(self, grace: float) -> None:
        """Asks the router for no more calls."""
        self._leaving = True
        if self._link is not None:
            self._link.mux.drain(grace)

    async def settle(self) -> None:
        """Waits until nothing is under way to or from the router."""
        if self._link is not None:
            await self._link.settle()

    async def leave(self) -> None:
        """Ends the session in good order."""
        self._leaving = True
        if self._call is not None and not self._call.done():
            await self._call.done_writing()

    async def _attach(self, stub: session_pb2_grpc.SessionServiceStub) -> ServiceError:
        if self._token.life <= 0:
            request = session_pb2.EnrolRequest(endpoint=self._endpoint, instance=self._instance)
            self._token.set(await stub.Enrol(request, metadata=bearer(self._key()), timeout=_RPC_TIMEOUT))
        self._call = stub.Connect(metadata=bearer(self._token.text))
        self._link = Link(
            agent=self._agent,
            message=session_pb2.ConnectRequest,
            events=_RouterEvents(self._attached),
            serves=self._inference,
            limits=self._limits,
            lost=Reason.ROUTER_UNAVAILABLE,
        )
        renewing = asyncio.get_running_loop().create_task(self._renew(stub))
        try:
            why = await self._link.run(self._call)
            if why.reason in HOPELESS:
                self._token.expires = 0.0  # The router does not take it, whatever its date says: enrol again.
            return why
        finally:
            renewing.cancel()
            self._call.cancel()
            self._link = None

    async def _renew(self, stub: session_pb2_grpc.SessionServiceStub) -> None:
        while True:
            # At half of its life; after a failure, at half of what is left.
            await asyncio.sleep(max(self._token.life / 2, 1.0))
            try:
                request = session_pb2.RenewTokenRequest()
                answer = await stub.RenewToken(request, metadata=bearer(self._token.text), timeout=_RPC_TIMEOUT)
                self._token.set(answer)
            except grpc.RpcError as error:
                why = from_rpc_error(error, unavailable=Reason.ROUTER_UNAVAILABLE)
                log.warning("could not renew the session token: %s", why)

    def _attached(self, router: str) -> None:
        self._attached_once = True
        self._pause = _FIRST_PAUSE  # Not before: a router that is away would be dialled ten times a second.
        log.info("attached to router %s (%s)", self.router, router)
        self.send_report()


class _RouterEvents:
    """What a router says outside any call."""

    def __init__(self, attached: Callable[[str], None]) -> None:
        self._attached = attached

    def hello(self, hello: frame_pb2.Hello) -> None:
        """The router has taken us in."""
        self._attached(hello.agent)

    def drain(self) -> None:
        """The router is shutting down. It ends the session when its calls are done, and we dial again."""

    def report(self, report: frame_pb2.Report) -> None:
        """Routers do not report."""

    def stop(self, stop: frame_pb2.Stop) -> None:
        """The router wishes that we end."""
