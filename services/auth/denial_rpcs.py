"""Auth's RPCs that deny principals, and that tell of each revocation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from weft.auth.v1 import auth_pb2

from services.auth.denials import Denial
from services.auth.messages import to_denial_proto
from services.auth.rpcs import Context, Rpcs, check_principal
from services.core.errors import Reason, ServiceError
from services.core.principal import denied_as
from services.rpc.boundary import caller
from services.rpc.paging import from_token, page_size, to_token

_LONGEST_COMMENT: Final = 1000


class DenialRpcs(Rpcs):
    """Keeps denials, and tells of revocations."""

    async def DenyPrincipal(  # noqa: N802 - gRPC's names
        self, request: auth_pb2.DenyPrincipalRequest, context: Context
    ) -> auth_pb2.DenyPrincipalResponse:
        """Denies a principal everything."""
        check_principal(request.principal)
        if len(request.comment) > _LONGEST_COMMENT:
            message = f"'comment' may have {_LONGEST_COMMENT} letters."
            raise ServiceError(Reason.ARGUMENT_INVALID, message, param="comment")
        if denied_as(request.principal) == denied_as(caller().name):
            # It could not be undone by whoever did it, and where there is one administrator, by nobody.
            message = "You cannot deny yourself; another administrator can."
            raise ServiceError(Reason.ACTION_FORBIDDEN, message, param="principal")
        wanted = Denial(request.principal, request.comment, self._parts.clock())
        denial = await self._parts.denials.deny(wanted)
        self._parts.revocations.wake()
        return auth_pb2.DenyPrincipalResponse(denial=to_denial_proto(denial))

    async def AdmitPrincipal(  # noqa: N802
        self, request: auth_pb2.AdmitPrincipalRequest, context: Context
    ) -> auth_pb2.AdmitPrincipalResponse:
        """Ends a denial."""
        check_principal(request.principal)
        if not await self._parts.denials.admit(request.principal, self._parts.clock()):
            message = f"'{request.principal}' is not denied; 'weft auth denied' lists those who are."
            raise ServiceError(Reason.RESOURCE_NOT_FOUND, message, param="principal")
        self._parts.revocations.wake()
        return auth_pb2.AdmitPrincipalResponse()

    async def ListDenials(  # noqa: N802
        self, request: auth_pb2.ListDenialsRequest, context: Context
    ) -> auth_pb2.ListDenialsResponse:
        """Denials, in the order of their principals."""
        size = page_size(request.page_size)
        found = await self._parts.denials.page(after=from_token(request.page_token), limit=size + 1)
        token = to_token(found[size - 1].principal) if len(found) > size else ""
        return auth_pb2.ListDenialsResponse(denials=map(to_denial_proto, found[:size]), next_page_token=token)

    async def WatchRevocations(  # noqa: N802
        self, request: auth_pb2.WatchRevocationsRequest, context: Context
    ) -> AsyncIterator[auth_pb2.WatchRevocationsResponse]:
        """Each revocation as it happens, the watcher's own among them: with that the watch ends."""
        own = {denied_as(caller().name), caller().identity.subject} - {""}
        async for message in self._parts.revocations.watch(request.revision):
            yield message
            if not message.reset and any({one.key, one.principal} & own for one in message.revocations):
                raise ServiceError(Reason.CREDENTIAL_INVALID)
