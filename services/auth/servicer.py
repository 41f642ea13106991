"""Auth's RPC edge."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from typing import Any, Final

import grpc
from weft.auth.v1 import auth_pb2, auth_pb2_grpc

from services.auth import tokens
from services.auth.judge import Judge
from services.auth.keys import Key, new_key, standing
from services.auth.messages import from_permissions, from_roles, to_key_proto, to_principal_proto
from services.auth.store import KeyStore
from services.core.errors import Reason, ServiceError
from services.core.names import check, endpoint_name
from services.core.principal import Permissions, Principal, Role, may_serve
from services.rpc.boundary import Access
from services.rpc.paging import from_token, page_size, to_token
from services.rpc.session_token import verify

SERVICE: Final = "weft.auth.v1.AuthService"

_SERVICE: Final = frozenset({Role.SERVICE})
_ADMIN: Final = frozenset({Role.ADMIN})
ACCESS: Access = {
    f"/{SERVICE}/Authenticate": _SERVICE,
    f"/{SERVICE}/IssueSessionToken": _SERVICE,
    f"/{SERVICE}/ListVerificationKeys": _SERVICE,
    f"/{SERVICE}/CreateKey": _ADMIN,
    f"/{SERVICE}/GetKey": _ADMIN,
    f"/{SERVICE}/ListKeys": _ADMIN,
    f"/{SERVICE}/RevokeKey": _ADMIN,
}

_PRINCIPAL: Final = re.compile(r"(users|services|workers)/[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
_INSTANCE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ANY_MODEL: Final = Permissions(allow_models=("*",))

Context = grpc.aio.ServicerContext[Any, Any]


class AuthServicer(auth_pb2_grpc.AuthServiceServicer):
    """Judges credentials, issues session tokens, keeps keys. `max_age` and `token_life` are in seconds."""

    def __init__(
        self,
        store: KeyStore,
        judge: Judge,
        *,
        max_age: float,
        token_life: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._judge = judge
        self._max_age = max_age
        self._token_life = token_life
        self._clock = clock

    async def Authenticate(  # noqa: N802 - gRPC's names
        self, request: auth_pb2.AuthenticateRequest, context: Context
    ) -> auth_pb2.AuthenticateResponse:
        """Whose a credential is."""
        key = await self._judge.look_up(request.credential)
        left = self._max_age if key.expires_at is None else min(self._max_age, key.expires_at - self._clock())
        answer = auth_pb2.AuthenticateResponse(principal=to_principal_proto(key.principal))
        answer.max_age.FromMilliseconds(max(0, int(left * 1000)))
        if key.expires_at is not None:
            answer.expire_time.FromMilliseconds(int(key.expires_at * 1000))
        return answer

    async def IssueSessionToken(  # noqa: N802
        self, request: auth_pb2.IssueSessionTokenRequest, context: Context
    ) -> auth_pb2.IssueSessionTokenResponse:
        """A token for a worker, by its key or by a token that is still good."""
        signing_keys = await self._store.signing_keys()  # from the store, where another auth's may have come
        if tokens.looks_like_token(request.credential):
            claims = verify(request.credential, {key.id: key.private.public_key() for key in signing_keys})
            endpoint, instance = claims.endpoint, claims.instance
            if request.endpoint not in ("", endpoint) or request.instance not in ("", instance):
                raise ServiceError(Reason.ACTION_FORBIDDEN, "A session token is renewed for its own endpoint alone.")
            # By the key that it began with: else a worker whose key is revoked would renew for ever.
            worker = standing(await self._store.find(claims.key), self._clock())
        else:
            worker = await self._judge.look_up(request.credential)
            endpoint, instance = request.endpoint, request.instance
        self._check_worker(worker.principal, endpoint, instance)
        # Whole seconds, as the token holds them; and it does not outlive the key.
        expires_at = int(min(self._clock() + self._token_life, worker.expires_at or math.inf))
        token = tokens.issue(
            signing_keys[0], worker=worker, endpoint=endpoint, instance=instance, expires_at=expires_at
        )
        answer = auth_pb2.IssueSessionTokenResponse(token=token)
        answer.expire_time.FromSeconds(expires_at)
        return answer

    async def ListVerificationKeys(  # noqa: N802
        self, request: auth_pb2.ListVerificationKeysRequest, context: Context
    ) -> auth_pb2.ListVerificationKeysResponse:
        """The public keys, all on one page: there are few. From the store, where another auth's key may have come."""
        page_size(request.page_size)
        signing_keys = await self._store.signing_keys()
        keys = [auth_pb2.VerificationKey(id=key.id, public_key=key.public_bytes) for key in signing_keys]
        return auth_pb2.ListVerificationKeysResponse(keys=keys)

    async def CreateKey(  # noqa: N802
        self, request: auth_pb2.CreateKeyRequest, context: Context
    ) -> auth_pb2.CreateKeyResponse:
        """Makes a key, and shows it this once."""
        if _PRINCIPAL.fullmatch(request.principal) is None:
            message = "'principal' must look like 'users/{user}', 'services/{service}' or 'workers/{worker}'."
            raise ServiceError(Reason.ARGUMENT_INVALID, message, param="principal")
        now = self._clock()
        lifetime = request.lifetime.ToMilliseconds() / 1000 if request.HasField("lifetime") else None
        if lifetime is not None and lifetime <= 0:
            raise ServiceError(Reason.ARGUMENT_INVALID, "'lifetime' must be above zero.", param="lifetime")
        permissions = from_permissions(request.permissions) if request.HasField("permissions") else _ANY_MODEL
        roles = from_roles(request.roles) or frozenset({Role.USER})
        credential, identity, hashed = new_key()
        key = Key(
            identity,
            hashed,
            Principal(request.principal, roles, permissions),
            request.display_name,
            now,
            expires_at=None if lifetime is None else now + lifetime,
        )
        await self._store.put(key)
        return auth_pb2.CreateKeyResponse(key=credential, resource=to_key_proto(key))

    async def GetKey(self, request: auth_pb2.GetKeyRequest, context: Context) -> auth_pb2.GetKeyResponse:  # noqa: N802
        """What is known of a key."""
        (identity,) = check("key", request.name)
        key = await self._store.find(identity)
        return auth_pb2.GetKeyResponse(key=to_key_proto(_found(key, request.name)))

    async def ListKeys(  # noqa: N802
        self, request: auth_pb2.ListKeysRequest, context: Context
    ) -> auth_pb2.ListKeysResponse:
        """Keys, in the order of their names."""
        size = page_size(request.page_size)
        after = from_token(request.page_token)
        keys = await self._store.page(after=after, limit=size + 1, principal=request.principal)
        token = to_token(keys[size - 1].id) if len(keys) > size else ""
        return auth_pb2.ListKeysResponse(keys=map(to_key_proto, keys[:size]), next_page_token=token)

    async def RevokeKey(  # noqa: N802
        self, request: auth_pb2.RevokeKeyRequest, context: Context
    ) -> auth_pb2.RevokeKeyResponse:
        """Revokes a key for good."""
        (identity,) = check("key", request.name)
        key = await self._store.revoke(identity, self._clock())
        return auth_pb2.RevokeKeyResponse(key=to_key_proto(_found(key, request.name)))

    @staticmethod
    def _check_worker(worker: Principal, endpoint: str, instance: str) -> None:
        endpoint_name(endpoint, param="endpoint")
        if _INSTANCE.fullmatch(instance) is None:
            message = "'instance' must be 1 to 64 letters, digits, '.', '_' or '-'."
            raise ServiceError(Reason.ARGUMENT_INVALID, message, param="instance")
        if not may_serve(worker, endpoint):
            raise ServiceError(Reason.ACTION_FORBIDDEN, f"This key may not serve '{endpoint}'.", param="endpoint")


def _found(key: Key | None, name: str) -> Key:
    if key is None:
        raise ServiceError(Reason.RESOURCE_NOT_FOUND, f"There is no '{name}'.", param="name")
    return key
