"""Auth's domain as its protos, and back."""

from __future__ import annotations

from collections.abc import Iterable

from weft.auth.v1 import auth_pb2

from services.auth.keys import Key
from services.core.errors import Reason, ServiceError
from services.core.principal import Permissions, Principal, Role


def to_principal_proto(principal: Principal) -> auth_pb2.Principal:
    """A principal, for those who asked."""
    return auth_pb2.Principal(
        name=principal.name, roles=_to_roles(principal.roles), permissions=_to_permissions(principal.permissions)
    )


def to_key_proto(key: Key) -> auth_pb2.Key:
    """What may be known of a key."""
    proto = auth_pb2.Key(
        name=f"keys/{key.id}",
        principal=key.principal.name,
        display_name=key.display_name,
        prefix=key.prefix,
        roles=_to_roles(key.principal.roles),
        permissions=_to_permissions(key.principal.permissions),
    )
    proto.create_time.FromMilliseconds(int(key.created_at * 1000))
    if key.expires_at is not None:
        proto.expire_time.FromMilliseconds(int(key.expires_at * 1000))
    if key.revoked_at is not None:
        proto.revoke_time.FromMilliseconds(int(key.revoked_at * 1000))
    return proto


def from_roles(roles: Iterable[int]) -> frozenset[Role]:
    """Roles that were asked for. Raises ARGUMENT_INVALID for one that does not exist."""
    try:
        return frozenset(Role(role) for role in roles)
    except ValueError as error:
        known = ", ".join(role.name.lower() for role in Role)
        raise ServiceError(Reason.ARGUMENT_INVALID, f"'roles' may hold {known}.", param="roles") from error


def from_permissions(proto: auth_pb2.Permissions) -> Permissions:
    """Permissions that were asked for."""
    return Permissions(tuple(proto.allow_models), tuple(proto.deny_models), tuple(proto.allow_endpoints))


def _to_permissions(permissions: Permissions) -> auth_pb2.Permissions:
    return auth_pb2.Permissions(
        allow_models=permissions.allow_models,
        deny_models=permissions.deny_models,
        allow_endpoints=permissions.allow_endpoints,
    )


def _to_roles(roles: Iterable[Role]) -> list[auth_pb2.Role.ValueType]:
    return [auth_pb2.Role.ValueType(value) for value in sorted(role.value for role in roles)]
