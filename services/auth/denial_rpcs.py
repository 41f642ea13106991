"""Auth's RPCs that deny principals, and that tell of each revocation."""

from __future__ import annotations

from collections.abc import AsyncIterator

from weft.auth.v1 import auth_pb2

from services.auth.rpcs import Context, Rpcs
from services.core.errors import Reason, ServiceError


class DenialRpcs(Rpcs):
    """Keeps denials."""

    async def DenyPrincipal(  # noqa: N802 - gRPC's names
        self, request: auth_pb2.DenyPrincipalRequest, context: Context
    ) -> auth_pb2.DenyPrincipalResponse:
        """Denies a principal everything."""
        raise ServiceError(Reason.OPERATION_NOT_FOUND)

    async def AdmitPrincipal(  # noqa: N802
        self, request: auth_pb2.AdmitPrincipalRequest, context: Context
    ) -> auth_pb2.AdmitPrincipalResponse:
        """Ends a denial."""
        raise ServiceError(Reason.OPERATION_NOT_FOUND)

    async def ListDenials(  # noqa: N802
        self, request: auth_pb2.ListDenialsRequest, context: Context
    ) -> auth_pb2.ListDenialsResponse:
        """Denials, in the order of their principals."""
        raise ServiceError(Reason.OPERATION_NOT_FOUND)

    async def WatchRevocations(  # noqa: N802
        self, request: auth_pb2.WatchRevocationsRequest, context: Context
    ) -> AsyncIterator[auth_pb2.WatchRevocationsResponse]:
        """Each revocation as it happens."""
        raise ServiceError(Reason.OPERATION_NOT_FOUND)
        yield
