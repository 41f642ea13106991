"""Auth's RPC edge."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Final

import grpc
from weft.auth.v1 import auth_pb2, auth_pb2_grpc

from services.auth.enrolment import Enrolment, new_token
from services.auth.enrolments import EnrolmentStore
from services.auth.issuer import Issuer
from services.auth.judge import Judge
from services.auth.keys import Key, new_key
from services.auth.messages import from_roles, to_key_proto
from services.auth.store import KeyStore
from services.core.errors import Reason, ServiceError
from services.core.names import check, endpoint_name
from services.core.principal import Permissions, Principal, Role
from services.rpc.boundary import Access
from services.rpc.paging import from_token, page_size, to_token
from services.rpc.principal import permissions_from_proto, principal_to_proto

SERVICE: Final = "weft.auth.v1.AuthService"

_SERVICE: Final = frozenset({Role.SERVICE})
_ADMIN: Final = frozenset({Role.ADMIN})
ACCESS: Access = {
    f"/{SERVICE}/Authenticate": _SERVICE,
    f"/{SERVICE}/IssueSessionToken": _SERVICE,
    f"/{SERVICE}/IssueEnrolmentToken": _SERVICE,
    f"/{SERVICE}/RevokeEnrolment": _SERVICE,
    f"/{SERVICE}/ListVerificationKeys": _SERVICE,
    f"/{SERVICE}/CreateKey": _ADMIN,
    f"/{SERVICE}/GetKey": _ADMIN,
    f"/{SERVICE}/ListKeys": _ADMIN,
    f"/{SERVICE}/RevokeKey": _ADMIN,
}

_PRINCIPAL: Final = re.compile(r"(users|services|workers)/[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
_PRINCIPAL_RULE: Final = "'{field}' must look like 'users/{{user}}', 'services/{{service}}' or 'workers/{{worker}}'."
_START: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LONGEST_ENROLMENT: Final = 90 * 86400.0
_ANY_MODEL: Final = Permissions(allow_models=("*",))

Context = grpc.aio.ServicerContext[Any, Any]


class AuthServicer(auth_pb2_grpc.AuthServiceServicer):
    """Judges credentials, issues tokens, keeps keys. `max_age` is in seconds."""

    def __init__(
        self,
        store: KeyStore,
        enrolments: EnrolmentStore,
        judge: Judge,
        issuer: Issuer,
        *,
        max_age: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._enrolments = enrolments
        self._judge = judge
        self._issuer = issuer
        self._max_age = max_age
        self._clock = clock

    async def Authenticate(  # noqa: N802 - gRPC's names
        self, request: auth_pb2.AuthenticateRequest, context: Context
    ) -> auth_pb2.AuthenticateResponse:
        """Whose a credential is."""
        key = await self._judge.look_up(request.credential)
        left = self._max_age if key.expires_at is None else min(self._max_age, key.expires_at - self._clock())
        answer = auth_pb2.AuthenticateResponse(principal=principal_to_proto(key.principal))
        answer.max_age.FromMilliseconds(max(0, int(left * 1000)))
        if key.expires_at is not None:
            answer.expire_time.FromMilliseconds(int(key.expires_at * 1000))
        return answer

    async def IssueSessionToken(  # noqa: N802
        self, request: auth_pb2.IssueSessionTokenRequest, context: Context
    ) -> auth_pb2.IssueSessionTokenResponse:
        """A token for a worker, by its key, an enrolment token, or a session token that is still good."""
        token, expires_at = await self._issuer.issue(request.credential, request.endpoint, request.instance)
        answer = auth_pb2.IssueSessionTokenResponse(token=token)
        answer.expire_time.FromSeconds(expires_at)
        return answer

    async def IssueEnrolmentToken(  # noqa: N802
        self, request: auth_pb2.IssueEnrolmentTokenRequest, context: Context
    ) -> auth_pb2.IssueEnrolmentTokenResponse:
        """A token that admits one worker, once; stored before it is given."""
        _check_start(request.start)
        endpoint_name(request.endpoint, param="endpoint")
        if request.serves and _PRINCIPAL.fullmatch(request.serves) is None:
            raise ServiceError(Reason.ARGUMENT_INVALID, _PRINCIPAL_RULE.format(field="serves"), param="serves")
        lifetime = request.lifetime.ToMilliseconds() / 1000
        if not 0 < lifetime <= _LONGEST_ENROLMENT:
            days = int(_LONGEST_ENROLMENT / 86400)
            message = f"'lifetime' must be above zero, and {days} days at most."
            raise ServiceError(Reason.ARGUMENT_INVALID, message, param="lifetime")
        now = self._clock()
        credential, token = new_token(request.start)
        wanted = Enrolment(request.start, request.endpoint, request.serves, now + lifetime)
        kept = await self._enrolments.put(wanted, token, now)
        answer = auth_pb2.IssueEnrolmentTokenResponse(token=credential)
        answer.expire_time.FromMilliseconds(int(kept.expires_at * 1000))
        return answer

    async def RevokeEnrolment(  # noqa: N802
        self, request: auth_pb2.RevokeEnrolmentRequest, context: Context
    ) -> auth_pb2.RevokeEnrolmentResponse:
        """Ends an enrolment, if need be before it begins."""
        _check_start(request.start)
        await self._enrolments.revoke(request.start, self._clock())
        return auth_pb2.RevokeEnrolmentResponse()

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
            raise ServiceError(Reason.ARGUMENT_INVALID, _PRINCIPAL_RULE.format(field="principal"), param="principal")
        now = self._clock()
        lifetime = request.lifetime.ToMilliseconds() / 1000 if request.HasField("lifetime") else None
        if lifetime is not None and lifetime <= 0:
            raise ServiceError(Reason.ARGUMENT_INVALID, "'lifetime' must be above zero.", param="lifetime")
        permissions = permissions_from_proto(request.permissions) if request.HasField("permissions") else _ANY_MODEL
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


def _check_start(start: str) -> None:
    if _START.fullmatch(start) is None:
        message = "'start' must be 1 to 64 letters, digits, '.', '_' or '-'."
        raise ServiceError(Reason.ARGUMENT_INVALID, message, param="start")


def _found(key: Key | None, name: str) -> Key:
    if key is None:
        raise ServiceError(Reason.RESOURCE_NOT_FOUND, f"There is no '{name}'.", param="name")
    return key
