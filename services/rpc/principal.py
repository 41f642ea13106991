"""Principals, and what policies say of them, between `weft.auth.v1` and the domain."""

from __future__ import annotations

from collections.abc import Iterable

from weft.auth.v1 import auth_pb2

from services.core.principal import CredentialKind, Identity, Permissions, Principal, Role
from services.core.quota import SubjectQuota
from services.rpc.access import quota_from_proto, quota_to_proto


def principal_to_proto(principal: Principal) -> auth_pb2.Principal:
    """The principal as auth speaks of it."""
    return auth_pb2.Principal(
        name=principal.name,
        roles=roles_to_proto(principal.roles),
        permissions=permissions_to_proto(principal.permissions),
        identity=_identity_to_proto(principal.identity),
        quotas=[
            auth_pb2.SubjectQuota(subject=one.subject, quota=quota_to_proto(one.quota)) for one in principal.quotas
        ],
    )


def principal_from_proto(proto: auth_pb2.Principal) -> Principal:
    """The principal that auth spoke of. Roles that we do not know, from a newer auth, are left out."""
    known = {role.value for role in Role}
    return Principal(
        proto.name,
        frozenset(Role(role) for role in proto.roles if role in known),
        permissions_from_proto(proto.permissions),
        _identity_from_proto(proto.identity),
        tuple(SubjectQuota(one.subject, quota_from_proto(one.quota)) for one in proto.quotas),
    )


def permissions_to_proto(permissions: Permissions) -> auth_pb2.Permissions:
    """The scope of a credential as auth speaks of it."""
    return auth_pb2.Permissions(
        allow_models=permissions.allow_models,
        deny_models=permissions.deny_models,
        allow_endpoints=permissions.allow_endpoints,
        allow_operations=permissions.allow_operations,
    )


def permissions_from_proto(proto: auth_pb2.Permissions) -> Permissions:
    """The scope that was spoken of."""
    return Permissions(
        tuple(proto.allow_models),
        tuple(proto.deny_models),
        tuple(proto.allow_endpoints),
        tuple(proto.allow_operations),
    )


def roles_to_proto(roles: Iterable[Role]) -> list[auth_pb2.Role.ValueType]:
    """Roles, in order."""
    return [auth_pb2.Role.ValueType(value) for value in sorted(role.value for role in roles)]


def _identity_to_proto(identity: Identity) -> auth_pb2.Identity:
    proto = auth_pb2.Identity(
        kind=auth_pb2.CredentialKind.ValueType(identity.kind.value),
        subject=identity.subject,
        username=identity.username,
        display_name=identity.display_name,
        domain=identity.domain,
        identity_provider=identity.identity_provider,
        identity_provider_name=identity.identity_provider_name,
        groups=sorted(identity.groups),
        mfa=identity.mfa,
        authentication_policies=sorted(identity.authentication_policies),
        service_account=identity.service_account,
    )
    if identity.authenticated_at is not None:
        proto.authenticate_time.FromMilliseconds(int(identity.authenticated_at * 1000))
    return proto


def _identity_from_proto(proto: auth_pb2.Identity) -> Identity:
    """An identity of a kind that we do not know, from a newer auth, counts as that of a token: policies then ask for
    what they ask of people.
    """
    try:
        kind = CredentialKind(proto.kind or CredentialKind.KEY.value)
    except ValueError:
        kind = CredentialKind.OIDC
    return Identity(
        kind,
        proto.subject,
        proto.username,
        proto.display_name,
        proto.domain,
        proto.identity_provider,
        proto.identity_provider_name,
        frozenset(proto.groups),
        proto.authenticate_time.ToMilliseconds() / 1000 if proto.HasField("authenticate_time") else None,
        proto.mfa,
        frozenset(proto.authentication_policies),
        proto.service_account,
    )
