"""The mesh's policy, between `weft.auth.v1` and the domain."""

from __future__ import annotations

from weft.auth.v1 import auth_pb2

from services.core.access import MeshPolicy
from services.core.quota import QuotaRule
from services.rpc.access import access_from_proto, access_to_proto, quota_from_proto, quota_to_proto


def policy_to_proto(mesh: MeshPolicy) -> auth_pb2.GetPolicyResponse:
    """The policy as auth speaks of it."""
    return auth_pb2.GetPolicyResponse(
        access=access_to_proto(mesh.access),
        provider_groups={
            provider: auth_pb2.GroupList(groups=groups) for provider, groups in mesh.provider_groups.items()
        },
        service_accounts=mesh.service_accounts,
        administrators=mesh.administrators,
        quotas=[auth_pb2.QuotaRule(subject=rule.subject, quota=quota_to_proto(rule.quota)) for rule in mesh.quotas],
    )


def policy_from_proto(proto: auth_pb2.GetPolicyResponse) -> MeshPolicy:
    """The policy that auth spoke of."""
    return MeshPolicy(
        access_from_proto(proto.access),
        {provider: tuple(one.groups) for provider, one in proto.provider_groups.items()},
        tuple(proto.service_accounts),
        tuple(proto.administrators),
        tuple(QuotaRule(rule.subject, quota_from_proto(rule.quota)) for rule in proto.quotas),
    )
