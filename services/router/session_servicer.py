"""The RPC edge towards workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
from weft.auth.v1 import auth_pb2, auth_pb2_grpc
from weft.session.v1 import session_pb2, session_pb2_grpc

from services.core.errors import Reason, ServiceError
from services.core.names import endpoint_name
from services.core.principal import Role
from services.router.backends.session import Sessions
from services.router.roster import Roster
from services.rpc.authenticator import OWN_CREDENTIAL
from services.rpc.boundary import Access, Open
from services.rpc.channel import bearer, credential_of
from services.rpc.errors import from_rpc_error
from services.rpc.paging import page
from services.rpc.session_token import SessionTokenVerifier

SERVICE: Final = "weft.session.v1.SessionService"

ACCESS: Access = {
    # These judge what a worker shows themselves; the cache of principals knows nothing of those tokens.
    f"/{SERVICE}/Enrol": Open.TO_ALL,
    f"/{SERVICE}/RenewToken": Open.TO_ALL,
    f"/{SERVICE}/Connect": Open.TO_ALL,
    f"/{SERVICE}/ListSessions": frozenset({Role.ADMIN, Role.SERVICE}),
    f"/{SERVICE}/StopSession": frozenset({Role.ADMIN, Role.SERVICE}),
}

_AUTH_TIMEOUT: Final = 5.0

Context = grpc.aio.ServicerContext[Any, Any]


class SessionServicer(session_pb2_grpc.SessionServiceServicer):
    """Takes workers in."""

    def __init__(
        self,
        sessions: Sessions,
        roster: Roster,
        tokens: SessionTokenVerifier,
        auth: auth_pb2_grpc.AuthServiceStub,
        service_key: Callable[[], str],
    ) -> None:
        self._sessions = sessions
        self._tokens = tokens
        self._auth = auth
        self._service_key = service_key
        self._roster = roster

    async def Enrol(  # noqa: N802
        self, request: session_pb2.EnrolRequest, context: Context
    ) -> session_pb2.EnrolResponse:
        """Exchanges a worker's key or enrolment token for a session token."""
        endpoint_name(request.endpoint, param="endpoint")
        catalogue = self._roster.catalogue
        if catalogue is None:
            raise ServiceError(Reason.REGISTRY_UNAVAILABLE, retry_after=1.0)
        if request.endpoint not in catalogue.endpoints:
            message = f"There is no '{request.endpoint}' in the registry; create it with 'weft endpoints create'."
            raise ServiceError(Reason.RESOURCE_NOT_FOUND, message, param="endpoint")
        answer = await self._issue(_credential(context), request.endpoint, request.instance)
        return session_pb2.EnrolResponse(token=answer.token, expire_time=answer.expire_time)

    async def RenewToken(  # noqa: N802
        self, request: session_pb2.RenewTokenRequest, context: Context
    ) -> session_pb2.RenewTokenResponse:
        """Exchanges a session token for a fresh one."""
        answer = await self._issue(_credential(context), "", "")
        self._sessions.renew(await self._tokens.verify(answer.token))
        return session_pb2.RenewTokenResponse(token=answer.token, expire_time=answer.expire_time)

    async def Connect(  # type: ignore[override]  # noqa: N802 - it reads and writes by its context
        self, request_iterator: AsyncIterator[session_pb2.ConnectRequest], context: Context
    ) -> None:
        """Carries a worker's session."""
        claims = await self._tokens.verify(_credential(context))
        await self._sessions.carry(claims, context.peer(), context)

    async def ListSessions(  # noqa: N802
        self, request: session_pb2.ListSessionsRequest, context: Context
    ) -> session_pb2.ListSessionsResponse:
        """Who is attached."""
        described = [session.describe() for session in self._sessions]
        sessions, token = page(
            described, lambda session: f"{session.endpoint} {session.instance}", request.page_size, request.page_token
        )
        return session_pb2.ListSessionsResponse(sessions=sessions, next_page_token=token)

    async def StopSession(  # noqa: N802
        self, request: session_pb2.StopSessionRequest, context: Context
    ) -> session_pb2.StopSessionResponse:
        """Asks a worker to end. It goes when its open calls have finished."""
        self._sessions.stop(request.endpoint, request.instance, request.why)
        return session_pb2.StopSessionResponse()

    async def _issue(self, credential: str, endpoint: str, instance: str) -> auth_pb2.IssueSessionTokenResponse:
        request = auth_pb2.IssueSessionTokenRequest(credential=credential, endpoint=endpoint, instance=instance)
        try:
            return await self._auth.IssueSessionToken(
                request, metadata=bearer(self._service_key()), timeout=_AUTH_TIMEOUT
            )
        except grpc.RpcError as error:
            why = from_rpc_error(error, unavailable=Reason.AUTH_UNAVAILABLE)
            if why.param == OWN_CREDENTIAL:  # It is our key that auth refuses, not the worker's.
                why = ServiceError(Reason.AUTH_UNAVAILABLE)
            raise why from error


def _credential(context: Context) -> str:
    credential = credential_of(context.invocation_metadata())
    if credential is None:
        raise ServiceError(Reason.CREDENTIAL_MISSING)
    return credential
