"""Enrolment tokens, from auth: with one, the worker of a start is admitted, once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import grpc
from weft.auth.v1 import auth_pb2, auth_pb2_grpc

from services.core.errors import Reason, ServiceError
from services.rpc.channel import bearer
from services.rpc.errors import from_rpc_error

_TIMEOUT: Final = 10.0


class Enrolment:
    """Has auth make and revoke enrolment tokens. Raises what auth raises, AUTH_UNAVAILABLE if it does not answer."""

    def __init__(self, auth: auth_pb2_grpc.AuthServiceStub, key: Callable[[], str]) -> None:
        self._auth = auth
        self._key = key

    async def issue(self, start: str, endpoint: str, *, lifetime: float, serves: str) -> str:
        """A token for a start, good for `lifetime` seconds; a further one, if it has one already."""
        request = auth_pb2.IssueEnrolmentTokenRequest(start=start, endpoint=endpoint, serves=serves)
        request.lifetime.FromMilliseconds(round(lifetime * 1000))
        try:
            answer = await self._auth.IssueEnrolmentToken(request, metadata=self._metadata(), timeout=_TIMEOUT)
        except grpc.RpcError as error:
            raise from_rpc_error(error, unavailable=Reason.AUTH_UNAVAILABLE) from error
        return answer.token

    async def revoke(self, start: str) -> None:
        """Nobody is admitted for this start any more."""
        request = auth_pb2.RevokeEnrolmentRequest(start=start)
        try:
            await self._auth.RevokeEnrolment(request, metadata=self._metadata(), timeout=_TIMEOUT)
        except grpc.RpcError as error:
            raise from_rpc_error(error, unavailable=Reason.AUTH_UNAVAILABLE) from error

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        try:
            return bearer(self._key())
        except OSError as error:
            message = f"The launcher's service key cannot be read: {error.strerror}."
            raise ServiceError(Reason.AUTH_UNAVAILABLE, message) from error
