"""Who may use what: policy as data, and the functions that decide by it; pure. Nothing else in Weft decides.

Two questions are asked at two places, of the same policies. Auth asks whether the mesh admits an identity at all
(`admit`), the router which endpoints a call may go to (`decide`). Both fail closed: a condition that cannot be seen to
hold does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from services.core.catalogue import AccessPolicy, Availability, Catalogue, Cluster, Endpoint
from services.core.errors import Reason, ServiceError
from services.core.globus import GlobusBackend
from services.core.principal import CredentialKind, Identity, Principal, Role, matches
from services.core.quota import QuotaRule, SubjectQuota

GROUP: Final = "groups/"

_BY_HAND: Final = frozenset({CredentialKind.KEY, CredentialKind.CERTIFICATE})
"""Credentials that an administrator made, and thereby admitted."""


class Ask(NamedTuple):
    """What is asked for; cluster and framework pin it where they are not empty. An empty operation stands for any: then
    the question is whether the model may be seen, in whatever state its cluster is.
    """

    operation: str
    model: str
    cluster: str = ""
    framework: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one policy says. Admitted if `reason` is None; then it holds until `until`, in seconds since 1970."""

    why: str
    reason: Reason | None = None
    until: float = math.inf


@dataclass(frozen=True, slots=True)
class Step:
    """One policy's part in a decision: whose it was, what it said, and why, in words."""

    subject: str
    admitted: bool
    why: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a call may be made, and why. `endpoints` are those that it may go to, by name; `until`, in seconds since
    1970, is when it must be decided anew. `error` is None if it may be made.
    """

    steps: tuple[Step, ...]
    endpoints: frozenset[str] = frozenset()
    until: float = math.inf
    error: ServiceError | None = None


@dataclass(frozen=True, slots=True)
class MeshPolicy:
    """Who may use the mesh at all, who administers it, and how much everybody may use; see
    `weft.auth.v1.GetPolicyResponse`. `provider_groups` are by identity provider, or by domain in small letters, as
    FIRST has them: groups in one of which its users must be.
    """

    access: AccessPolicy = AccessPolicy()
    provider_groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    service_accounts: tuple[str, ...] = ()
    administrators: tuple[str, ...] = ()
    quotas: tuple[QuotaRule, ...] = ()


def admit(mesh: MeshPolicy, principal: Principal, now: float) -> Verdict:
    """Whether the mesh admits an identity. Keys and certificates were made by an administrator, who admitted them."""
    identity = principal.identity
    if identity.kind in _BY_HAND:
        return Verdict("an administrator made this credential")
    if identity.service_account:
        if matches(mesh.service_accounts, principal.name):
            return Verdict("the mesh's service accounts name it")
        return Verdict(f"'{principal.name}' is not among the mesh's service accounts", Reason.IDENTITY_FORBIDDEN)
    verdict = judge(mesh.access, principal, now)
    if verdict.reason is Reason.MODEL_FORBIDDEN:
        return Verdict(verdict.why, Reason.IDENTITY_FORBIDDEN)
    for provider in (identity.identity_provider, identity.domain.lower()):
        wanted = mesh.provider_groups.get(provider)
        if verdict.reason is None and wanted is not None and not _in_one(wanted, identity):
            why = f"users of {provider} must be in one of the groups {_listed(wanted)}"
            return Verdict(why, Reason.IDENTITY_FORBIDDEN)
    return verdict


def roles_of(mesh: MeshPolicy, principal: Principal) -> frozenset[Role]:
    """The roles of an identity that the mesh admits."""
    groups = {GROUP + group for group in principal.identity.groups}
    if matches(mesh.administrators, principal.name) or not groups.isdisjoint(mesh.administrators):
        return principal.roles | {Role.USER, Role.ADMIN}
    return principal.roles | {Role.USER}


def quotas_of(mesh: MeshPolicy, principal: Principal) -> tuple[SubjectQuota, ...]:
    """What the principal may use, itself and its groups. Of several rules that fit its name, the first counts."""
    found: dict[str, SubjectQuota] = {}
    for rule in mesh.quotas:
        group = rule.subject.removeprefix(GROUP)
        if group != rule.subject:
            subject = rule.subject if group in principal.identity.groups else ""
        else:
            subject = principal.name if matches((rule.subject,), principal.name) else ""
        if subject:
            found.setdefault(subject, SubjectQuota(subject, rule.quota))
    return tuple(found.values())


def judge(policy: AccessPolicy, principal: Principal, now: float) -> Verdict:
    """What one policy says of a principal: admitted, or MODEL_FORBIDDEN, or SESSION_INSUFFICIENT where a new login may
    help.
    """
    identity = principal.identity
    if not matches(policy.allowed_principals, principal.name) and (why := _stranger(policy, identity)):
        return Verdict(why, Reason.MODEL_FORBIDDEN)
    missing = [one for one in policy.authentication_policies if one not in identity.authentication_policies]
    if missing:
        return _insufficient(f"your session does not satisfy the authentication policy {_listed(missing)}")
    if policy.require_mfa and not identity.mfa:
        return _insufficient("you must have logged in with a second factor")
    if policy.max_session_age is None:
        return Verdict("all conditions hold")
    if identity.authenticated_at is None:
        return _insufficient("it takes a login whose time is known, which your credential does not tell")
    until = identity.authenticated_at + policy.max_session_age
    if not now < until:  # so, and not by >=, what is not a number does not hold either
        return _insufficient(f"you must have logged in within the last {policy.max_session_age:.0f} s")
    return Verdict("all conditions hold", until=until)


def decide(
    principal: Principal, ask: Ask, catalogue: Catalogue, serving: Iterable[Endpoint] | None, now: float
) -> Decision:
    """Whether a call may be made, and where it may go. `serving` are the endpoints that the model leads to; None if
    nobody knows the model.

    The order is FIRST's: a cluster under maintenance, its frameworks, its operations, the model; only then who asks.
    """
    steps: list[Step] = []
    cluster = catalogue.clusters.get(f"clusters/{ask.cluster}") if ask.cluster else None
    if cluster is not None and ask.operation:
        if (error := _closed(cluster, ask)) is not None:
            return _decided(steps, cluster.name, error)
        steps.append(Step(cluster.name, True, "it takes such calls"))
    if serving is None:
        return _decided(steps, "the catalogue", unknown_model(ask.model))
    if (error := _out_of_scope(principal, ask)) is not None:
        return _decided(steps, "the credential", error)
    steps.append(Step("the credential", True, "its scope holds model and operation"))
    # Of a call that names a cluster too, which goes by no route: else FIRST's URLs would be the way around its policy.
    route = catalogue.routes_by_model.get(ask.model)
    until = math.inf
    if route is not None:
        verdict = judge(route.access, principal, now)
        if verdict.reason is not None:
            return _decided(steps, route.name, _refusal(ask.model, verdict))
        steps.append(Step(route.name, True, verdict.why))
        until = verdict.until
    return _among(principal, ask, catalogue, serving, now, steps, until)


def operation_refusal(principal: Principal, operation: str) -> ServiceError | None:
    """Why the credential's scope does not hold the operation, whatever the model; None if it does."""
    operations = principal.permissions.allow_operations
    if not operation or not operations or matches(operations, _short(operation)):
        return None
    allowed = _listed(operations)
    message = f"Your credential does not allow the operation '{_short(operation)}'; it allows {allowed}."
    return ServiceError(Reason.ACTION_FORBIDDEN, message)


def open_to_all(catalogue: Catalogue, endpoint: Endpoint) -> bool:
    """Whether neither an endpoint nor its cluster asks who somebody is: its existence is no secret."""
    cluster = catalogue.clusters.get(endpoint.cluster)
    nobody = AccessPolicy()
    return cluster is not None and cluster.access == endpoint.access == nobody and not _serves(endpoint)


def in_scope(principal: Principal, model: str) -> bool:
    """Whether the credential's scope holds the model; whether policies admit its bearer is another question."""
    permissions = principal.permissions
    return matches(permissions.allow_models, model) and not matches(permissions.deny_models, model)


def unknown_model(model: str) -> ServiceError:
    """What vLLM says of a model that it does not have."""
    return ServiceError(Reason.MODEL_NOT_FOUND, f"The model `{model}` does not exist.", param="model")


def _among(
    principal: Principal,
    ask: Ask,
    catalogue: Catalogue,
    serving: Iterable[Endpoint],
    now: float,
    steps: list[Step],
    until: float,
) -> Decision:
    """The last part of a decision: which of the endpoints. One that admits is enough."""
    admitted: set[str] = set()
    refused: list[Verdict] = []
    for endpoint in serving:
        for subject, verdict in _verdicts(principal, ask, catalogue, endpoint, now):
            steps.append(Step(subject, verdict.reason is None, verdict.why))
            if verdict.reason is not None:
                refused.append(verdict)
                break
            until = min(until, verdict.until)
        else:
            admitted.add(endpoint.name)
    if admitted or not refused:
        return Decision(tuple(steps), frozenset(admitted), until)
    # What the caller can do something about by a new login comes before what it cannot.
    worst = {Reason.SESSION_INSUFFICIENT: 0, Reason.MODEL_FORBIDDEN: 1}
    verdict = min(refused, key=lambda verdict: worst.get(verdict.reason or Reason.INTERNAL, 2))
    return Decision(tuple(steps), error=_refusal(ask.model, verdict))


def _verdicts(
    principal: Principal, ask: Ask, catalogue: Catalogue, endpoint: Endpoint, now: float
) -> Iterator[tuple[str, Verdict]]:
    cluster = catalogue.clusters.get(endpoint.cluster)
    if cluster is None:
        yield endpoint.cluster, _refused("its cluster is not known, nor who may use it")
        return
    if not _offers(cluster, ask.operation):
        why = f"the cluster does not offer {_short(ask.operation)}"
        yield cluster.name, Verdict(why, Reason.OPERATION_UNSUPPORTED)
    yield cluster.name, judge(cluster.access, principal, now)
    if _serves(endpoint) not in ("", principal.name):
        yield endpoint.name, _refused("it serves another caller alone")
    yield endpoint.name, judge(endpoint.access, principal, now)


def _closed(cluster: Cluster, ask: Ask) -> ServiceError | None:
    """Why a cluster that a call is pinned to does not take it, whoever asks."""
    if cluster.availability is Availability.MAINTENANCE:
        notice = f": {cluster.notice}" if cluster.notice else ""
        return ServiceError(Reason.CLUSTER_MAINTENANCE, f"The cluster '{cluster.name}' is under maintenance{notice}.")
    if ask.framework and cluster.frameworks and ask.framework not in cluster.frameworks:
        known = ", ".join(cluster.frameworks)
        message = f"The cluster '{ask.cluster}' runs no framework '{ask.framework[:100]}'; it runs {known}."
        return ServiceError(Reason.FRAMEWORK_UNSUPPORTED, message)
    if not _offers(cluster, ask.operation):
        known = ", ".join(cluster.operations)
        message = f"The cluster '{ask.cluster}' does not offer {_short(ask.operation)}; it offers {known}."
        return ServiceError(Reason.OPERATION_UNSUPPORTED, message)
    return None


def _serves(endpoint: Endpoint) -> str:
    """The one principal whom the endpoint's workers serve; empty if they are shared."""
    launch = endpoint.backend.launch if isinstance(endpoint.backend, GlobusBackend) else None
    return launch.serves if launch is not None else ""


def _offers(cluster: Cluster, operation: str) -> bool:
    return not operation or not cluster.operations or _short(operation) in cluster.operations


def _short(operation: str) -> str:
    """The operation as FIRST, and the scope of a key, name it."""
    return operation.removeprefix("/v1/")


def _out_of_scope(principal: Principal, ask: Ask) -> ServiceError | None:
    if (error := operation_refusal(principal, ask.operation)) is not None:
        return error
    if not in_scope(principal, ask.model):
        message = f"Your credential does not allow the model '{ask.model}'; GET /v1/models lists those that it does."
        return ServiceError(Reason.MODEL_FORBIDDEN, message, param="model")
    return None


def _refusal(model: str, verdict: Verdict) -> ServiceError:
    remedy = {
        Reason.MODEL_FORBIDDEN: "GET /v1/models lists those that you may use.",
        Reason.SESSION_INSUFFICIENT: "Log in again: 'weft login --force'.",
    }
    reason = verdict.reason or Reason.MODEL_FORBIDDEN
    message = " ".join((f"You may not use the model '{model}': {verdict.why}.", remedy.get(reason, ""))).strip()
    return ServiceError(reason, message, param="model")


def _decided(steps: list[Step], subject: str, error: ServiceError) -> Decision:
    return Decision((*steps, Step(subject, False, error.message)), error=error)


def _refused(why: str) -> Verdict:
    return Verdict(why, Reason.MODEL_FORBIDDEN)


def _insufficient(why: str) -> Verdict:
    return Verdict(why, Reason.SESSION_INSUFFICIENT)


def _stranger(policy: AccessPolicy, identity: Identity) -> str:
    """Why somebody whom the policy does not name is not among those whom it is for; empty if they are."""
    groups, domains = policy.allowed_globus_groups, policy.allowed_domains
    providers = policy.allowed_identity_providers
    if groups and not _in_one(groups, identity):
        return f"it is for members of {_listed(groups)}"
    if domains and not _in_domain(domains, identity.domain):
        own = f"'{identity.domain}'" if identity.domain else "no domain"
        return f"it is for identities of {_listed(domains)}, and yours has {own}"
    if providers and not (identity.identity_provider and identity.identity_provider in providers):
        return f"it is for identities of the providers {_listed(providers)}"
    if policy.allowed_principals and not (groups or domains or providers):
        return f"it is for {_listed(policy.allowed_principals)} alone"
    return ""


def _in_one(groups: Iterable[str], identity: Identity) -> bool:
    return any(group in identity.groups for group in groups if group)


def _in_domain(allowed: Iterable[str], domain: str) -> bool:
    """Whether the domain is one of those, or below one that is given as `*.anl.gov`; case does not matter.

    Domains are compared as DNS has them, in ASCII: outside it, letters that look alike would become the same ones when
    they are made small.
    """
    if not domain or not domain.isascii():
        return False
    domain = domain.lower()
    return any(_covers(one.lower(), domain) for one in allowed)


def _covers(allowed: str, domain: str) -> bool:
    if not allowed.startswith("*."):
        return domain == allowed
    return len(domain) > len(allowed) - 1 > 1 and domain.endswith(allowed[1:])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
