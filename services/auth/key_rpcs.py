"""Auth's RPCs that keep API keys."""

from __future__ import annotations

from typing import Final

from google.protobuf.duration_pb2 import Duration
from weft.auth.v1 import auth_pb2

from services.auth.keys import Key, identity_of, new_key, successor_of
from services.auth.messages import from_roles, to_key_proto
from services.auth.rpcs import Context, Rpcs, check_principal
from services.core.errors import Reason, ServiceError
from services.core.names import check
from services.core.principal import Permissions, Principal, Role
from services.rpc.paging import from_token, page_size, to_token
from services.rpc.principal import permissions_from_proto

_ANY_MODEL: Final = Permissions(allow_models=("*",))
_OVERLAP: Final = 86400.0
_DAYS: Final = 36500
"""The longest life of a key: a timestamp ends with the year 9999, and one that is beyond spoils every list."""


class KeyRpcs(Rpcs):
    """Keeps keys."""

    async def CreateKey(  # noqa: N802 - gRPC's names
        self, request: auth_pb2.CreateKeyRequest, context: Context
    ) -> auth_pb2.CreateKeyResponse:
        """Makes a key, and shows it this once."""
        check_principal(request.principal)
        now, lifetime = self._parts.clock(), _lifetime(request)
        permissions = permissions_from_proto(request.permissions) if request.HasField("permissions") else _ANY_MODEL
        roles = from_roles(request.roles) or frozenset({Role.USER})
        credential, identity, hashed = new_key()
        key = Key(
            identity,
            hashed,
            Principal(request.principal, roles, permissions, identity_of(identity, request.principal, request.groups)),
            request.display_name,
            now,
            expires_at=None if lifetime is None else now + lifetime,
        )
        await self._parts.keys.put(key)
        return auth_pb2.CreateKeyResponse(key=credential, resource=to_key_proto(key))

    async def GetKey(self, request: auth_pb2.GetKeyRequest, context: Context) -> auth_pb2.GetKeyResponse:  # noqa: N802
        """What is known of a key."""
        (identity,) = check("key", request.name)
        key = await self._parts.keys.find(identity)
        return auth_pb2.GetKeyResponse(key=to_key_proto(_found(key, request.name)))

    async def ListKeys(  # noqa: N802
        self, request: auth_pb2.ListKeysRequest, context: Context
    ) -> auth_pb2.ListKeysResponse:
        """Keys, in the order of their names."""
        size = page_size(request.page_size)
        after = from_token(request.page_token)
        keys = await self._parts.keys.page(after=after, limit=size + 1, principal=request.principal)
        token = to_token(keys[size - 1].id) if len(keys) > size else ""
        return auth_pb2.ListKeysResponse(keys=map(to_key_proto, keys[:size]), next_page_token=token)

    async def RevokeKey(  # noqa: N802
        self, request: auth_pb2.RevokeKeyRequest, context: Context
    ) -> auth_pb2.RevokeKeyResponse:
        """Revokes a key for good."""
        (identity,) = check("key", request.name)
        key = await self._parts.keys.revoke(identity, self._parts.clock())
        self._parts.revocations.wake()
        return auth_pb2.RevokeKeyResponse(key=to_key_proto(_found(key, request.name)))

    async def RotateKey(  # noqa: N802
        self, request: auth_pb2.RotateKeyRequest, context: Context
    ) -> auth_pb2.RotateKeyResponse:
        """Makes a successor of a key, and shows it this once."""
        (identity,) = check("key", request.name)
        overlap = _seconds(request.overlap, "overlap") if request.HasField("overlap") else _OVERLAP
        now, lifetime = self._parts.clock(), _lifetime(request)
        old = _found(await self._parts.keys.find(identity), request.name)
        credential, successor = successor_of(old, now, lifetime)
        await self._parts.keys.rotate(identity, successor, until=now + overlap, now=now)
        self._parts.revocations.wake()
        rotated = _found(await self._parts.keys.find(identity), request.name)
        return auth_pb2.RotateKeyResponse(
            key=credential, resource=to_key_proto(successor), rotated=to_key_proto(rotated)
        )


def _lifetime(request: auth_pb2.CreateKeyRequest | auth_pb2.RotateKeyRequest) -> float | None:
    """How long the key is to be good, in seconds; None if nothing is said. Raises ARGUMENT_INVALID."""
    if not request.HasField("lifetime"):
        return None
    lifetime = _seconds(request.lifetime, "lifetime")
    if lifetime == 0:
        raise ServiceError(Reason.ARGUMENT_INVALID, "'lifetime' must be above zero.", param="lifetime")
    return lifetime


def _seconds(duration: Duration, param: str) -> float:
    seconds = duration.ToMilliseconds() / 1000
    if not 0 <= seconds <= _DAYS * 86400:
        message = f"'{param}' must not be negative, and {_DAYS} days at most."
        raise ServiceError(Reason.ARGUMENT_INVALID, message, param=param)
    return seconds


def _found(key: Key | None, name: str) -> Key:
    if key is None:
        raise ServiceError(Reason.RESOURCE_NOT_FOUND, f"There is no '{name}'.", param="name")
    return key
