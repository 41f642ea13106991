"""A call's way through the router: authenticate, authorise, admit, plan, dispatch. The router as an `Inference`."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from services.core.access import Ask
from services.core.answers import ReadyAnswer
from services.core.catalogue import Catalogue
from services.core.errors import Reason, ServiceError
from services.core.headers import TO_UPSTREAM, select
from services.core.inference import Call, Head, Inference, Receiver, Request
from services.core.principal import Principal
from services.core.tracing import TRACEPARENT, TRACESTATE, Tracer
from services.router.bill import Accounting
from services.router.body import read_body
from services.router.call_spans import finish
from services.router.call_trace import trace
from services.router.dispatch import DispatchedCall
from services.router.dispatcher import Dispatcher
from services.router.first import StatusRoutes
from services.router.gateway_call import GatewayCall
from services.router.later import LaterAnswer
from services.router.models import list_models, only_model
from services.router.operations import FIRST_STATUS, PUBLIC, check_operation, lists_models
from services.router.permits import Permits
from services.rpc.channel import parse_bearer

log = logging.getLogger(__name__)

_UNTRACED: Final = TO_UPSTREAM - {TRACEPARENT, TRACESTATE}
"""Of a call that is traced each attempt has a place of its own in the trace."""


class PrincipalCache(Protocol):
    """Tells whose a credential is: at once if it is known, by asking auth otherwise."""

    def peek(self, credential: str) -> Principal | None:
        """The principal if it is known and fresh."""

    async def authenticate(self, credential: str | None) -> Principal:
        """Raises CREDENTIAL_MISSING, CREDENTIAL_INVALID, CREDENTIAL_EXPIRED or AUTH_UNAVAILABLE."""


Refused = Callable[[Principal | None, Request, str, ServiceError], None]
"""Told of each call that is refused with 401 or 403, with whoever made it and the model, as far as they are known."""


class Gateway:
    """Takes calls from facades and gRPC clients. Warm, a call leaves for its worker before `open` returns."""

    def __init__(
        self,
        principals: PrincipalCache,
        permits: Permits,
        dispatcher: Dispatcher,
        status: StatusRoutes,
        accounting: Accounting,
        *,
        max_calls: int,
        refused: Refused = lambda principal, request, model, error: None,
        turned_away: Callable[[ServiceError], None] | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """`turned_away` counts the calls that are refused before there is a bill that could tell of them."""
        self._tell_refused = refused
        self._tracer = tracer
        self._turned_away = turned_away
        self._principals = principals
        self._permits = permits
        self._status = status
        self._accounting = accounting
        self._dispatcher = dispatcher
        self._max_calls = max_calls
        self._open: set[GatewayCall] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    @property
    def open_calls(self) -> int:
        """Calls that are open now."""
        return len(self._open)

    def known_as(self, principal: Principal) -> Inference:
        """This gateway, for the calls of somebody who is known by other means than a credential in the call."""
        return _Entrance(self, principal)

    @property
    def behind_facades(self) -> Inference:
        """This gateway, for the calls that a facade of the mesh hands on: it has decided which of them are sampled."""
        return _Entrance(self, inside=True)

    def open(
        self,
        request: Request,
        receiver: Receiver,
        credit: int,
        known: Principal | None = None,
        *,
        inside: bool = False,
    ) -> Call:
        """See `Inference.open`. A call without a credential is that of whoever is `known`; `inside` tells that a part
        of the mesh hands it on. What is asked for by GET is no call to a model, and not traced.
        """
        traced = None
        if self._tracer is not None and request.method == "POST":
            traced = trace(self._tracer, request, inside=inside)
        try:
            self._admit()
            credential = parse_bearer(request.header("authorization") or "")
            call = GatewayCall(self, request, receiver, credit, traced)
            self._open.add(call)
            self._idle.clear()
            principal = self._principals.peek(credential) if credential else known
            if principal is not None:
                call.begin(principal)
            elif request.operation in PUBLIC:
                call.begin(None)
            else:
                call.authenticate(credential)
            return call
        except ServiceError as error:
            if self._turned_away is not None:
                self._turned_away(error)
            if traced is not None:
                finish(traced, error, None, None)
            return _tell_soon(ReadyAnswer(error, receiver, credit))

    async def ready(self) -> bool:
        """Whether it takes calls: it knows what exists, and is not shutting down."""
        return self._dispatcher.roster.catalogue is not None and not self._draining

    async def drain(self, grace: float) -> None:
        """Takes no more calls, and waits for the open ones for `grace` seconds."""
        self._draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), grace)
        except TimeoutError:
            log.warning("%d calls were still open after the grace of %.0f s", len(self._open), grace)

    async def close(self) -> None:
        """Ends the calls that are still open. Those that no server has are to come again: the successor may serve
        them.
        """
        for call in sorted(self._open, key=lambda call: call.computing):  # a place that is freed is nobody's any more
            call.refuse(ServiceError(Reason.SHUTTING_DOWN, retry_after=None if call.computing else 1.0))
        await asyncio.sleep(0)  # so that their last frames are queued

    def _admit(self) -> None:
        if self._draining:
            raise ServiceError(Reason.SHUTTING_DOWN, retry_after=1.0)
        if self._dispatcher.roster.catalogue is None:
            message = "The router has not yet had the catalogue from the registry; try again shortly."
            raise ServiceError(Reason.REGISTRY_UNAVAILABLE, message, retry_after=1.0)
        if len(self._open) >= self._max_calls:
            message = f"The router has {self._max_calls} calls open, which is its limit; try again shortly."
            raise ServiceError(Reason.OVERLOADED, message, retry_after=1.0)

    async def principal_of(self, credential: str | None) -> Principal:
        """Asks for a principal that is not at hand."""
        return await self._principals.authenticate(credential)

    def start(self, call: GatewayCall, principal: Principal | None) -> Call:
        """Authorises a call and sends it on its way; without a principal, one that anybody may make. Raises
        `ServiceError`.
        """
        request, roster, permits = call.request, self._dispatcher.roster, self._permits
        check_operation(request.method, request.operation)
        if request.operation in FIRST_STATUS:
            return LaterAnswer(
                lambda: self._status.answer(request.operation, request.cluster, principal), call, call.credit
            )
        if principal is None:
            raise ServiceError(Reason.CREDENTIAL_MISSING)
        if lists_models(request.operation):
            body = list_models(roster, permits, principal, request.operation)
            head = Head(200, (("content-type", "application/json"), ("content-length", str(len(body)))))
            return _tell_soon(ReadyAnswer((head, body), call, call.credit))
        bill = call.bill = self._accounting.open(principal, request, roster.catalogue or Catalogue())
        wanted = read_body(request.body)
        model = bill.model = wanted.model or only_model(roster, permits, principal)
        ask = Ask(request.operation, model, request.cluster, request.framework)
        permits.permit(principal, ask)
        traced = call.trace
        notes = traced if traced is not None and traced.noting else None
        if notes is not None:
            notes.authorise(bill)
        admitted = bill.admit(wanted)
        if notes is not None and admitted:
            notes.admit()
        travelling = TO_UPSTREAM if traced is None else _UNTRACED
        outward = msgspec.structs.replace(request, headers=select(request.headers, travelling))
        dispatched = DispatchedCall(
            self._dispatcher,
            outward,
            wanted,
            model,
            call,
            call.credit,
            permit=functools.partial(permits.permit, principal, ask),
            bill=bill,
            caller=principal.name,
            asked=request.headers,
            trace=traced,
        )
        asyncio.get_running_loop().call_soon(functools.partial(dispatched.begin, admitted=admitted))
        return dispatched

    def refused(self, call: GatewayCall, error: ServiceError) -> None:
        """A call was refused, or has failed, for this."""
        if call.bill is None and self._turned_away is not None:
            self._turned_away(error)
        if error.kind.http in (401, 403):
            self._tell_refused(call.principal, call.request, call.bill.model if call.bill else "", error)

    def forget(self, call: GatewayCall) -> None:
        """A call has ended."""
        self._open.discard(call)
        if not self._open:
            self._idle.set()


class _Entrance:
    """A gateway for calls that come one way: one principal's, or those of facades."""

    def __init__(self, gateway: Gateway, principal: Principal | None = None, *, inside: bool = False) -> None:
        self._gateway = gateway
        self._principal = principal
        self._inside = inside

    def open(self, request: Request, receiver: Receiver, credit: int) -> Call:
        """See `Inference.open`."""
        return self._gateway.open(request, receiver, credit, self._principal, inside=self._inside)


def _tell_soon(answer: ReadyAnswer) -> ReadyAnswer:
    asyncio.get_running_loop().call_soon(answer.tell)
    return answer
