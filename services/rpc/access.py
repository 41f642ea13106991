"""Access policies, quotas and limits, between `weft.registry.v1` and the domain."""

from __future__ import annotations

from weft.registry.v1 import resources_pb2

from services.core.catalogue import AccessPolicy
from services.core.quota import Limits, Quota


def access_to_proto(access: AccessPolicy) -> resources_pb2.AccessPolicy | None:
    """The policy as the registry speaks of it; None for one without conditions."""
    if access == AccessPolicy():
        return None
    proto = resources_pb2.AccessPolicy(
        allowed_globus_groups=access.allowed_globus_groups,
        allowed_domains=access.allowed_domains,
        allowed_identity_providers=access.allowed_identity_providers,
        allowed_principals=access.allowed_principals,
        authentication_policies=access.authentication_policies,
        require_mfa=access.require_mfa,
    )
    if access.max_session_age is not None:
        proto.max_session_age.FromMilliseconds(round(access.max_session_age * 1000))
    return proto


def access_from_proto(proto: resources_pb2.AccessPolicy) -> AccessPolicy:
    """The policy that was spoken of; an absent one has no conditions."""
    return AccessPolicy(
        tuple(proto.allowed_globus_groups),
        tuple(proto.allowed_domains),
        tuple(proto.allowed_identity_providers),
        tuple(proto.allowed_principals),
        tuple(proto.authentication_policies),
        proto.max_session_age.ToMilliseconds() / 1000 if proto.HasField("max_session_age") else None,
        proto.require_mfa,
    )


def quota_to_proto(quota: Quota) -> resources_pb2.Quota:
    """The quota as the protos speak of it."""
    return resources_pb2.Quota(
        requests_per_second=quota.requests_per_second,
        concurrent_calls=quota.concurrent_calls,
        tokens_per_minute=quota.tokens_per_minute,
        tokens_per_day=quota.tokens_per_day,
    )


def quota_from_proto(proto: resources_pb2.Quota) -> Quota:
    """The quota that was spoken of."""
    return Quota(proto.requests_per_second, proto.concurrent_calls, proto.tokens_per_minute, proto.tokens_per_day)


def limits_to_proto(limits: Limits) -> resources_pb2.Limits | None:
    """The limits as the registry speaks of them; None for none."""
    if limits == Limits():
        return None
    return resources_pb2.Limits(
        tokens_per_minute=limits.together.tokens_per_minute,
        tokens_per_minute_per_user=limits.each.tokens_per_minute,
        requests_per_second=limits.together.requests_per_second,
        requests_per_second_per_user=limits.each.requests_per_second,
        concurrent_calls=limits.together.concurrent_calls,
        concurrent_calls_per_user=limits.each.concurrent_calls,
        tokens_per_day=limits.together.tokens_per_day,
        tokens_per_day_per_user=limits.each.tokens_per_day,
    )


def limits_from_proto(proto: resources_pb2.Limits) -> Limits:
    """The limits that were spoken of; absent ones are none."""
    return Limits(
        Quota(proto.requests_per_second, proto.concurrent_calls, proto.tokens_per_minute, proto.tokens_per_day),
        Quota(
            proto.requests_per_second_per_user,
            proto.concurrent_calls_per_user,
            proto.tokens_per_minute_per_user,
            proto.tokens_per_day_per_user,
        ),
    )
