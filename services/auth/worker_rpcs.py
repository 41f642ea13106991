"""Auth's RPCs for workers: what they enrol with, what they dial with, and how routers verify that."""

from __future__ import annotations

import re
from typing import Final

from weft.auth.v1 import auth_pb2

from services.auth.enrolment import Enrolment, new_token
from services.auth.messages import to_verification_key
from services.auth.rpcs import Context, Rpcs, check_principal
from services.core.errors import Reason, ServiceError
from services.core.names import endpoint_name
from services.rpc.paging import page_size

_START: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LONGEST_ENROLMENT: Final = 90 * 86400.0


class WorkerRpcs(Rpcs):
    """Issues tokens."""

    async def IssueSessionToken(  # noqa: N802 - gRPC's names
        self, request: auth_pb2.IssueSessionTokenRequest, context: Context
    ) -> auth_pb2.IssueSessionTokenResponse:
        """A token for a worker, by its key, an enrolment token, or a session token that is still good."""
        token, expires_at = await self._parts.issuer.issue(request.credential, request.endpoint, request.instance)
        answer = auth_pb2.IssueSessionTokenResponse(token=token)
        answer.expire_time.FromSeconds(expires_at)
        return answer

    async def IssueEnrolmentToken(  # noqa: N802
        self, request: auth_pb2.IssueEnrolmentTokenRequest, context: Context
    ) -> auth_pb2.IssueEnrolmentTokenResponse:
        """A token that admits one worker, once; stored before it is given."""
        _check_start(request.start)
        endpoint_name(request.endpoint, param="endpoint")
        if request.serves:
            check_principal(request.serves, param="serves")
        lifetime = request.lifetime.ToMilliseconds() / 1000
        if not 0 < lifetime <= _LONGEST_ENROLMENT:
            days = int(_LONGEST_ENROLMENT / 86400)
            message = f"'lifetime' must be above zero, and {days} days at most."
            raise ServiceError(Reason.ARGUMENT_INVALID, message, param="lifetime")
        now = self._parts.clock()
        credential, token = new_token(request.start)
        wanted = Enrolment(request.start, request.endpoint, request.serves, now + lifetime)
        kept = await self._parts.enrolments.put(wanted, token, now)
        answer = auth_pb2.IssueEnrolmentTokenResponse(token=credential)
        answer.expire_time.FromMilliseconds(int(kept.expires_at * 1000))
        return answer

    async def RevokeEnrolment(  # noqa: N802
        self, request: auth_pb2.RevokeEnrolmentRequest, context: Context
    ) -> auth_pb2.RevokeEnrolmentResponse:
        """Ends an enrolment, if need be before it begins."""
        _check_start(request.start)
        await self._parts.enrolments.revoke(request.start, self._parts.clock())
        self._parts.revocations.wake()
        return auth_pb2.RevokeEnrolmentResponse()

    async def ListVerificationKeys(  # noqa: N802
        self, request: auth_pb2.ListVerificationKeysRequest, context: Context
    ) -> auth_pb2.ListVerificationKeysResponse:
        """The public keys, all on one page: there are few."""
        page_size(request.page_size)
        signing_keys = await self._parts.signing_keys.all()
        return auth_pb2.ListVerificationKeysResponse(keys=map(to_verification_key, signing_keys))

    async def RotateSigningKey(  # noqa: N802
        self, request: auth_pb2.RotateSigningKeyRequest, context: Context
    ) -> auth_pb2.RotateSigningKeyResponse:
        """A fresh key signs from now on."""
        fresh = await self._parts.signing_keys.replace(self._parts.clock())
        return auth_pb2.RotateSigningKeyResponse(key=to_verification_key(fresh))


def _check_start(start: str) -> None:
    if _START.fullmatch(start) is None:
        message = "'start' must be 1 to 64 letters, digits, '.', '_' or '-'."
        raise ServiceError(Reason.ARGUMENT_INVALID, message, param="start")
