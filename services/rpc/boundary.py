"""The edge of every gRPC server: who may call which RPC, and how an error leaves.

The table of roles is the only place where that is decided; a method that is not in it is refused, so that a new RPC is
closed until somebody thinks about it.
"""

from __future__ import annotations

import contextvars
import enum
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

import grpc

from services.core.errors import Reason, ServiceError
from services.core.principal import Principal, Role
from services.rpc.audit import Auditor
from services.rpc.audited import Watch
from services.rpc.channel import credential_of
from services.rpc.handlers import Handler, behaviour_of, replaced
from services.rpc.peer_principals import PeerPrincipals
from services.rpc.status import abort
from services.rpc.traced import UNTRACED, RpcTrace, RpcTraces, Untraced
from services.rpc.weight import weighed

log = logging.getLogger(__name__)


class Open(enum.Enum):
    """For methods that need no role."""

    TO_ALL = "to all"
    """The method judges credentials itself, or shows nothing that needs one."""


Access = Mapping[str, frozenset[Role] | Open]
"""Who may call a method, by its full name: `/weft.auth.v1.AuthService/CreateKey`."""

HEALTH_AND_REFLECTION: Access = {
    "/grpc.health.v1.Health/Check": Open.TO_ALL,
    "/grpc.health.v1.Health/Watch": Open.TO_ALL,
    "/grpc.health.v1.Health/List": Open.TO_ALL,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Open.TO_ALL,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Open.TO_ALL,
}

_NO_CREDENTIAL = (
    "No API key was sent, and no certificate with one SPIFFE id of this mesh's trust domain; "
    "send 'authorization: Bearer KEY', or show such a certificate."
)

_caller: contextvars.ContextVar[Principal] = contextvars.ContextVar("caller")


def caller() -> Principal:
    """Who calls the RPC that is being served. Only inside methods that need a role."""
    return _caller.get()


class Authenticator(Protocol):
    """Tells whose a credential is."""

    async def authenticate(self, credential: str | None) -> Principal:
        """Raises CREDENTIAL_MISSING, CREDENTIAL_INVALID, CREDENTIAL_EXPIRED or AUTH_UNAVAILABLE."""


class Boundary(grpc.aio.ServerInterceptor):  # type: ignore[misc, unused-ignore]
    """Authenticates, checks roles, and turns what the handlers raise into status. With `peers`, a caller without a
    bearer token is known by its client certificate; with `traces`, RPCs that belong to a trace are told of in it.
    """

    def __init__(
        self,
        access: Access,
        authenticator: Authenticator,
        peers: PeerPrincipals | None = None,
        audit: Auditor | None = None,
        traces: RpcTraces | None = None,
    ) -> None:
        self._access = {**HEALTH_AND_REFLECTION, **access}
        self._authenticator = authenticator
        self._peers = peers
        self._audit = audit
        self._traces = traces

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Puts the checks around whatever handler serves the method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        credential = credential_of(handler_call_details.invocation_metadata)

        async def admit(context: Any, watch: Watch) -> None:
            allowed = self._access.get(method)
            if allowed is Open.TO_ALL:
                return
            watch.principal = principal = await self._identify(credential, context)
            if allowed is None:
                raise ServiceError(Reason.ACTION_FORBIDDEN, f"{method} is closed.")
            principal.require(*allowed, action=f"{method.rpartition('/')[2]}")
            _caller.set(principal)

        def watch(context: Any) -> Watch:
            return Watch(self._audit, method, context)

        def trace(context: Any) -> RpcTrace | Untraced:
            if self._traces is None:
                return UNTRACED
            return self._traces.of(method, handler_call_details.invocation_metadata, context)

        if handler.response_streaming:
            return _replace(handler, _streaming(behaviour_of(handler), admit, watch, method))
        return _replace(handler, _unary(behaviour_of(handler), admit, watch, trace, method))

    async def _identify(self, credential: str | None, context: Any) -> Principal:
        if credential is None and self._peers is not None:
            if (principal := await self._peers.principal_of(context)) is not None:
                return principal
            raise ServiceError(Reason.CREDENTIAL_MISSING, _NO_CREDENTIAL)
        return await self._authenticator.authenticate(credential)


_Admit = Callable[[Any, Watch], Awaitable[None]]
_MakeWatch = Callable[[Any], Watch]
_MakeTrace = Callable[[Any], RpcTrace | Untraced]


def _unary(behaviour: Any, admit: _Admit, make_watch: _MakeWatch, make_trace: _MakeTrace, method: str) -> Any:
    async def serve(request: Any, context: Any) -> Any:
        watch = make_watch(context)
        with make_trace(context) as trace:
            try:
                await admit(context, watch)
                if isinstance(request, ServiceError):
                    raise request
                return await watch.over(behaviour, request, context)
            except ServiceError as error:
                watch.failed(error)
                trace.failed(error)
                await abort(context, error)
            except grpc.aio.AbortError:
                raise
            except Exception:
                log.exception("an unexpected error ended an RPC", extra={"method": method})
                trace.failed(internal := ServiceError(Reason.INTERNAL))
                await abort(context, internal)

    return serve


def _streaming(behaviour: Any, admit: _Admit, make_watch: _MakeWatch, method: str) -> Any:
    async def serve(request: Any, context: Any) -> AsyncIterator[Any]:
        watch = make_watch(context)
        try:
            await admit(context, watch)
            if isinstance(request, ServiceError):
                raise request
            watch.admitted = True
            answer = behaviour(request, context)
            if hasattr(answer, "__aiter__"):
                async for message in answer:
                    yield message
            else:  # a handler that reads and writes by its context
                await answer
        except ServiceError as error:
            watch.failed(error)
            await abort(context, error)
        except grpc.aio.AbortError:
            raise
        except Exception:
            log.exception("an unexpected error ended an RPC", extra={"method": method})
            await abort(context, ServiceError(Reason.INTERNAL))

    return serve


def _replace(handler: Handler, behaviour: Any) -> Handler:
    parse = handler.request_deserializer
    if parse is not None:
        parse = weighed(parse, streamed=handler.request_streaming)
    return replaced(handler, behaviour, parse)
