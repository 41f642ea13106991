"""Auth's RPCs about who somebody is."""

from __future__ import annotations

from collections.abc import Sequence

from weft.auth.v1 import auth_pb2

from services.auth.admission import endowed
from services.auth.keys import Key
from services.auth.rpcs import Context, Rpcs, check_principal
from services.core.errors import Reason, ServiceError
from services.core.names import check
from services.core.principal import Principal
from services.rpc.policy import policy_to_proto
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
        self._parts.seen.note(judged.principal, self._parts.clock())
        answer = auth_pb2.AuthenticateResponse(principal=principal_to_proto(judged.principal))
        answer.max_age.FromMilliseconds(int(judged.max_age * 1000))
        if judged.expires_at is not None:
            answer.expire_time.FromMilliseconds(int(judged.expires_at * 1000))
        return answer

    async def GetPolicy(  # noqa: N802
        self, request: auth_pb2.GetPolicyRequest, context: Context
    ) -> auth_pb2.GetPolicyResponse:
        """The mesh's policy."""
        return policy_to_proto(self._parts.mesh)

    async def GetPrincipal(  # noqa: N802
        self, request: auth_pb2.GetPrincipalRequest, context: Context
    ) -> auth_pb2.GetPrincipalResponse:
        """What is known of a principal, with the roles and quotas that the policy gives it now."""
        principal, when = await self._known(request.name)
        denied = await self._parts.denials.find(principal.name) is not None
        endowed_now = endowed(self._parts.mesh, principal)
        answer = auth_pb2.GetPrincipalResponse(principal=principal_to_proto(endowed_now), denied=denied)
        if when is not None:
            answer.last_use_time.FromMilliseconds(int(when * 1000))
        return answer

    async def _known(self, name: str) -> tuple[Principal, float | None]:
        """Of a principal that was not seen, a key tells as much as there is. Raises RESOURCE_NOT_FOUND."""
        keys: Sequence[Key | None]
        if name.startswith("keys/"):
            (identity,) = check("key", name)
            keys = [await self._parts.keys.find(identity)]
        else:
            check_principal(name, param="name")
            if (seen := await self._parts.seen.find(name)) is not None:
                return seen
            keys = await self._parts.keys.page(limit=1000, principal=name)
        known = [key for key in keys if key is not None]
        if not known:
            message = f"Nothing is known of '{name}': it has no key, and was never admitted."
            raise ServiceError(Reason.RESOURCE_NOT_FOUND, message, param="name")
        key = max(known, key=lambda key: (key.revoked_at is None, key.created_at))
        return key.principal, key.last_used_at
