"""A call in the gateway: the `Call` of whoever opened it, and the `Receiver` of whoever answers it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from services.core.errors import Reason, ServiceError
from services.core.inference import Call, Head, Receiver, Request
from services.core.principal import Principal
from services.core.tracing import TraceContext, current, log_fields
from services.router.bill import Bill
from services.router.call_spans import finish
from services.router.call_trace import AUTHENTICATE, CallTrace
from services.router.dispatch import DispatchedCall

log = logging.getLogger(__name__)


class Way(Protocol):
    """What the gateway does for a call, one thing after the other."""

    async def principal_of(self, credential: str | None) -> Principal:
        """Asks whose a credential is. Raises `ServiceError`."""

    def start(self, call: GatewayCall, principal: Principal | None) -> Call:
        """Authorises it and sends it on its way. Raises `ServiceError`."""

    def refused(self, call: GatewayCall, error: ServiceError) -> None:
        """It was refused, or has failed, for this."""

    def forget(self, call: GatewayCall) -> None:
        """It has ended."""


class GatewayCall:
    """A call in the router: at first without an identity, then with a `DispatchedCall` or a ready answer behind it."""

    __slots__ = (
        "__weakref__",
        "_gateway",
        "_inner",
        "_receiver",
        "_task",
        "bill",
        "credit",
        "principal",
        "request",
        "trace",
    )

    def __init__(
        self, gateway: Way, request: Request, receiver: Receiver, credit: int, trace: CallTrace | None
    ) -> None:
        self.request = request
        self.trace = trace
        self.credit = credit
        self.bill: Bill | None = None
        self.principal: Principal | None = None
        self._gateway = gateway
        self._receiver: Receiver | None = receiver
        self._inner: Call | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def computing(self) -> bool:
        """Whether a server has it."""
        return isinstance(self._inner, DispatchedCall) and self._inner.computing

    def authenticate(self, credential: str | None) -> None:
        """Asks auth first."""
        self._task = asyncio.get_running_loop().create_task(self._authenticate(credential))

    async def _authenticate(self, credential: str | None) -> None:
        if self.trace is not None:
            current.set(self.trace.begin(AUTHENTICATE))
        try:
            principal = await self._gateway.principal_of(credential)
            if self.trace is not None:
                self.trace.done()
                current.set(self.trace.context)
            self.begin(principal)
        except ServiceError as error:
            self.fail(error)
        except Exception:
            log.exception("an unexpected error ended a call", extra=log_fields(self.context))
            self.fail(ServiceError(Reason.INTERNAL))

    def begin(self, principal: Principal | None) -> None:
        """The caller is known, or need not be."""
        self.principal = principal
        if self.trace is not None and self.trace.noting:
            self.trace.authenticated = time.time_ns()
        try:
            self._inner = self._gateway.start(self, principal)
        except ServiceError as error:
            self._refused(error)
        except Exception:
            log.exception("an unexpected error ended a call", extra=log_fields(self.context))
            self._refused(ServiceError(Reason.INTERNAL))

    def _refused(self, error: ServiceError) -> None:
        if self.bill is not None:
            self.bill.close(error.reason.name.lower(), error.kind.http, reached=False)
        asyncio.get_running_loop().call_soon(self.fail, error)

    def refuse(self, error: ServiceError) -> None:
        """Ends the call from this side."""
        if isinstance(self._inner, DispatchedCall):
            self._inner.fail(error)  # which is recorded as what it is: nobody has left
            return
        receiver = self._receiver
        self._told(error)
        self.cancel()
        if receiver is not None:
            receiver.fail(error)

    # Call

    def grant(self, credit: int) -> None:
        if self._inner is not None:
            self._inner.grant(credit)
        else:
            self.credit += credit

    def cancel(self) -> None:
        self._receiver = None
        if self._task is not None:
            self._task.cancel()
        if self._inner is not None:
            self._inner.cancel()
        self._told(None)
        self._gateway.forget(self)

    @property
    def context(self) -> TraceContext | None:
        """The place of its span, if it is traced."""
        return None if self.trace is None else self.trace.context

    def _told(self, error: ServiceError | None) -> None:
        """All is known that its spans tell; those of a call that has ended were told before."""
        if self.trace is not None:
            traced, self.trace = self.trace, None
            finish(traced, error, self.principal, self.bill)

    # Receiver

    def head(self, head: Head) -> None:
        if self._receiver is not None:
            self._receiver.head(head)

    def data(self, chunk: bytes) -> None:
        if self._receiver is not None:
            self._receiver.data(chunk)

    def end(self) -> None:
        receiver, self._receiver = self._receiver, None
        self._told(None)
        self._gateway.forget(self)
        if receiver is not None:
            receiver.end()

    def fail(self, error: ServiceError) -> None:
        self._gateway.refused(self, error)
        receiver, self._receiver = self._receiver, None
        self._told(error)
        self._gateway.forget(self)
        if receiver is not None:
            receiver.fail(error)
