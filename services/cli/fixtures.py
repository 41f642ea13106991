"""Brings FIRST's fixtures into the registry: what they say is set, what they cannot say stays as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from weft.registry.v1 import registry_pb2

from services.cli.first.convert import Imported
from services.core.catalogue import AccessPolicy, Catalogue, Cluster, Endpoint, Route
from services.core.quota import Limits
from services.rpc.resources import cluster_to_proto, endpoint_to_proto, route_to_proto


def to_request(imported: Imported, present: Catalogue, *, dry_run: bool) -> registry_pb2.ApplyRequest:
    """The request that brings the registry to what the files hold. Whether a resource takes calls, its notice and its
    labels are kept: an import must not bring back what an operator has taken out of service.
    """
    implied = [cluster for name, cluster in imported.implied.items() if name not in present.clusters]
    clusters = [_kept_cluster(cluster, present.clusters) for cluster in imported.clusters.values()]
    return registry_pb2.ApplyRequest(
        clusters=map(cluster_to_proto, [*clusters, *implied]),
        endpoints=(endpoint_to_proto(_kept_endpoint(e, present.endpoints)) for e in imported.endpoints.values()),
        routes=(route_to_proto(_kept_route(route, present.routes)) for route in imported.routes.values()),
        dry_run=dry_run,
    )


def report(results: Iterable[registry_pb2.AppliedResource], notes: Iterable[str], *, dry_run: bool) -> list[str]:
    """Lines that say what was done."""
    lines = [f"note: {note}" for note in notes]
    counts: Counter[str] = Counter()
    for result in results:
        done = registry_pb2.ApplyAction.Name(result.action).removeprefix("APPLY_ACTION_").lower()
        counts[done] += 1
        lines.append(f"{done:<10} {result.name}")
    total = ", ".join(f"{counts[done]} {done}" for done in ("created", "updated", "unchanged"))
    return [*lines, f"{total}; nothing was written, as this was a dry run." if dry_run else f"{total}."]


def _kept_cluster(cluster: Cluster, present: Mapping[str, Cluster]) -> Cluster:
    was = present.get(cluster.name)
    if was is None:
        return cluster
    return replace(
        cluster,
        display_name=was.display_name,
        availability=was.availability,
        notice=was.notice,
        labels=was.labels,
        access=_kept_access(cluster.access, was.access),
        limits=was.limits,
    )


def _kept_endpoint(endpoint: Endpoint, present: Mapping[str, Endpoint]) -> Endpoint:
    was = present.get(endpoint.name)
    if was is None:
        return endpoint
    return replace(
        endpoint,
        display_name=was.display_name,
        availability=was.availability,
        notice=was.notice,
        labels=was.labels,
        access=_kept_access(endpoint.access, was.access),
        limits=_kept_limits(endpoint.limits, was.limits),
    )


def _kept_route(route: Route, present: Mapping[str, Route]) -> Route:
    was = present.get(route.name)
    return route if was is None else replace(route, labels=was.labels, access=was.access, limits=was.limits)


def _kept_access(access: AccessPolicy, was: AccessPolicy) -> AccessPolicy:
    """FIRST's fixtures speak of groups and domains alone: what else an operator asks of callers must not fall."""
    return replace(was, allowed_globus_groups=access.allowed_globus_groups, allowed_domains=access.allowed_domains)


def _kept_limits(limits: Limits, was: Limits) -> Limits:
    """FIRST's fixtures speak of tokens per minute alone."""
    return Limits(
        replace(was.together, tokens_per_minute=limits.together.tokens_per_minute),
        replace(was.each, tokens_per_minute=limits.each.tokens_per_minute),
    )
