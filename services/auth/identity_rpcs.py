"""Auth's RPCs about who somebody is."""

from __future__ import annotations

from weft.auth.v1 import auth_pb2

from services.auth.rpcs import Context, Rpcs
from services.core.errors import Reason, ServiceError
from services.rpc.principal import principal_to_proto


class IdentityRpcs(Rpcs):
    """Judges credentials."""

    async def Authenticate(  # noqa: N802 - gRPC's names
        self, request: auth_pb2.AuthenticateRequest, context: Context
    ) -> auth_pb2.AuthenticateResponse:
        """Whose a credential is."""
        judge = self._parts.judge
        if request.spiffe_id:
            judged = await judge.look_up_peer(request.spiffe_id)
        else:
            judged = await judge.look_up(request.credential)
        answer = auth_pb2.AuthenticateResponse(principal=principal_to_proto(judged.principal))
        answer.max_age.FromMilliseconds(int(judged.max_age * 1000))
        if judged.expires_at is not None:
            answer.expire_time.FromMilliseconds(int(judged.expires_at * 1000))
        return answer

    async def GetPolicy(  # noqa: N802
        self, request: auth_pb2.GetPolicyRequest, context: Context
    ) -> auth_pb2.GetPolicyResponse:
        """The mesh's policy."""
        raise ServiceError(Reason.OPERATION_NOT_FOUND)

    async def GetPrincipal(  # noqa: N802
        self, request: auth_pb2.GetPrincipalRequest, context: Context
    ) -> auth_pb2.GetPrincipalResponse:
        """What is known of a principal."""
        raise ServiceError(Reason.OPERATION_NOT_FOUND)
