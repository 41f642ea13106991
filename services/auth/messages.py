"""Auth's domain as its protos, and back."""

from __future__ import annotations

from collections.abc import Iterable

from weft.auth.v1 import auth_pb2

from services.auth.denials import Denial
from services.auth.keys import Key
from services.auth.tokens import SigningKey
from services.core.errors import Reason, ServiceError
from services.core.principal import Role
from services.rpc.principal import permissions_to_proto, roles_to_proto


def to_key_proto(key: Key) -> auth_pb2.Key:
    """What may be known of a key."""
    proto = auth_pb2.Key(
        name=f"keys/{key.id}",
        principal=key.principal.name,
        display_name=key.display_name,
        prefix=key.prefix,
        roles=roles_to_proto(key.principal.roles),
        permissions=permissions_to_proto(key.principal.permissions),
        groups=sorted(key.principal.identity.groups),
        successor=key.successor,
    )
    proto.create_time.FromMilliseconds(int(key.created_at * 1000))
    if key.expires_at is not None:
        proto.expire_time.FromMilliseconds(int(key.expires_at * 1000))
    if key.revoked_at is not None:
        proto.revoke_time.FromMilliseconds(int(key.revoked_at * 1000))
    if key.last_used_at is not None:
        proto.last_use_time.FromMilliseconds(int(key.last_used_at * 1000))
    return proto


def to_verification_key(key: SigningKey) -> auth_pb2.VerificationKey:
    """The public half of a signing key."""
    return auth_pb2.VerificationKey(id=key.id, public_key=key.public_bytes)


def to_denial_proto(denial: Denial) -> auth_pb2.Denial:
    """What is known of a denial."""
    proto = auth_pb2.Denial(principal=denial.principal, comment=denial.comment)
    proto.create_time.FromMilliseconds(int(denial.created_at * 1000))
    return proto


def from_roles(roles: Iterable[int]) -> frozenset[Role]:
    """Roles that were asked for. Raises ARGUMENT_INVALID for one that does not exist."""
    try:
        return frozenset(Role(role) for role in roles)
    except ValueError as error:
        known = ", ".join(role.name.lower() for role in Role)
        raise ServiceError(Reason.ARGUMENT_INVALID, f"'roles' may hold {known}.", param="roles") from error
