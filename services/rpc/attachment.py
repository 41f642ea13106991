"""A worker's attachment to one router: enrols, dials, keeps the session, renews its token, dials again.

Whatever answers calls may attach: the process beside a vLLM, or the launcher on behalf of nodes that cannot dial out.
Needs the base dependencies alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import grpc
from weft.session.v1 import frame_pb2, session_pb2, session_pb2_grpc, span_pb2

from services.core.errors import Reason, ServiceError
from services.core.inference import Inference
from services.rpc.channel import bearer
from services.rpc.errors import from_rpc_error, is_ours
from services.rpc.limits import MuxLimits
from services.rpc.link import Link
from services.rpc.remote import Way, explain

log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
_RPC_TIMEOUT: Final = 10.0
_FAREWELL: Final = 5.0
"""Seconds that a router may take to read what was written before the session's end."""
_PLAIN: Final = Way()

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


class RefusedError(ServiceError):
    """A router's refusal that trying again does not cure."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What is shown to enrol: a worker's key, or an enrolment token.

    `read` is asked at each enrolment, so that a rotated key is taken up. `once` tells that it admits this worker alone
    and may be revoked with it: then a refusal is final, while a key that was taken before may be good again later.
    """

    read: Callable[[], str] = field(repr=False)
    once: bool = False


class Owner(Protocol):
    """Whoever is attached: what becomes of the attachment."""

    def attached(self, router: str) -> None:
        """The router has taken us in, for the first time or again."""

    def stop(self, stop: frame_pb2.Stop) -> None:
        """The router wishes that we finish our calls, and end."""

    def refused(self, error: RefusedError) -> None:
        """The router renews our token no more. The session lasts until the last one expires."""


class Dials(Protocol):
    """Knows the way to routers."""

    def dial(self, router: str) -> grpc.aio.Channel:
        """A channel to a router."""


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
    """Keeps one session to one router. `report` gives the worker's state at any time; `way` says how to reach routers
    outside the mesh. `instance` is the worker's own name for this run of it, the same for all its routers.
    """

    def __init__(
        self,
        router: str,
        *,
        endpoint: str,
        instance: str,
        credential: Credential,
        agent: str,
        inference: Inference,
        limits: MuxLimits,
        report: Callable[[], frame_pb2.Report],
        owner: Owner,
        way: Dials = _PLAIN,
    ) -> None:
        self.router = router
        self.trouble: ServiceError | None = None
        """Why it is not attached at present, if it is not."""
        self._endpoint = endpoint
        self._instance = instance
        self._credential = credential
        self._agent = agent
        self._inference = inference
        self._limits = limits
        self._report = report
        self._owner = owner
        self._way = way
        self._token = _Token()
        self._link: Link | None = None
        self._call: grpc.aio.StreamStreamCall[session_pb2.ConnectRequest, session_pb2.ConnectResponse] | None = None
        self._attached_once = False
        self._leaving = False
        self._pause = _FIRST_PAUSE

    async def run(self) -> None:
        """Attaches again and again, until `leave`. Raises `RefusedError` if it is refused for good: at the first
        attempt, or at any with a credential that admits once; and `ServiceError` if the first credential cannot be
        read.
        """
        while not self._leaving:
            try:
                # Dialled each time, because a certificate may have been renewed since.
                async with self._way.dial(self.router) as channel:
                    why = await self._attach(session_pb2_grpc.SessionServiceStub(channel))
            except (grpc.RpcError, ServiceError) as error:
                why = error if isinstance(error, ServiceError) else self._refusal(error)
                if why.reason in HOPELESS and (self._credential.once or not self._attached_once):
                    raise why from error
            self.trouble = why
            if not self._leaving:
                wait = random.uniform(self._pause / 2, self._pause)  # so that the workers of a site do not come in step
                log.warning("not attached to router %s, trying again in %.1f s: %s", self.router, wait, why)
                await asyncio.sleep(wait)
                self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def send_report(self) -> None:
        """Tells the router how the worker is doing, if attached."""
        if self._link is not None:
            self._link.mux.report(self._report())

    @property
    def takes_spans(self) -> bool:
        """Whether it is attached, and the router wants spans."""
        return self._link is not None and self._link.mux.takes_spans

    def send_spans(self, spans: span_pb2.Spans) -> bool:
        """Tells the router of spans; False if it takes none at present."""
        return self._link is not None and self._link.mux.send_spans(spans)

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
        """Ends the session in good order: the router has then read all that was written, or has had the time to. To
        cancel the stream before would take back what it has not read yet, the ends of answers.
        """
        self._leaving = True
        if self._call is not None and not self._call.done():
            await self._call.done_writing()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    await self._call.code()

    async def _attach(self, stub: session_pb2_grpc.SessionServiceStub) -> ServiceError:
        if self._token.life <= 0:
            request = session_pb2.EnrolRequest(endpoint=self._endpoint, instance=self._instance)
            metadata = bearer(self._credential.read())
            self._token.set(await stub.Enrol(request, metadata=metadata, timeout=_RPC_TIMEOUT))
        self._call = stub.Connect(metadata=bearer(self._token.text))
        self._link = Link(
            agent=self._agent,
            message=session_pb2.ConnectRequest,
            events=_RouterEvents(self._attached, self._owner.stop),
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
                why = self._refusal(error)
                log.warning("could not renew the session token: %s", why)
                # Other refusals concern the token, which enrolling again replaces.
                if isinstance(why, RefusedError) and why.reason is Reason.ACTION_FORBIDDEN and self._credential.once:
                    self._owner.refused(why)
                    return

    def _refusal(self, error: grpc.RpcError) -> ServiceError:
        why = from_rpc_error(error, unavailable=Reason.ROUTER_UNAVAILABLE)
        if why.reason is Reason.ROUTER_UNAVAILABLE and isinstance(error, grpc.aio.AioRpcError):
            return explain(self.router, error.details() or "")
        if not is_ours(error):
            # What stands before the router may think otherwise in a moment: no refusal for good.
            message = f"Something on the way to the router at {self.router} refuses us: {why.message}"
            return ServiceError(Reason.ROUTER_UNAVAILABLE, message)
        return RefusedError(why.reason, why.message, param=why.param) if why.reason in HOPELESS else why

    def _attached(self, router: str) -> None:
        self._attached_once = True
        self.trouble = None
        self._pause = _FIRST_PAUSE  # Not before: a router that is away would be dialled ten times a second.
        log.info("attached to router %s (%s)", self.router, router)
        self.send_report()
        self._owner.attached(self.router)


class _RouterEvents:
    """What a router says outside any call."""

    def __init__(self, attached: Callable[[str], None], stop: Callable[[frame_pb2.Stop], None]) -> None:
        self._attached = attached
        self._stop = stop

    def hello(self, hello: frame_pb2.Hello) -> None:
        """The router has taken us in."""
        self._attached(hello.agent)

    def drain(self) -> None:
        """The router is shutting down. It ends the session when its calls are done, and we dial again."""

    def report(self, report: frame_pb2.Report) -> None:
        """Routers do not report."""

    def stop(self, stop: frame_pb2.Stop) -> None:
        """The router wishes that we end."""
        self._stop(stop)
