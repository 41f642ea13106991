"""What a call takes from: the limits of its caller, of its route, and of the endpoint that serves it; pure.

A limit of a cluster, an endpoint or a route is of all callers together (`routes/llama`), or of each of them
(`routes/llama users/alice`). The same claims are the same object each time, by which the limiter finds them: to hash
all that they hold would cost more than to count.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from services.core.catalogue import Catalogue
from services.core.principal import Principal
from services.core.quota import Limits, Quota
from services.router.limits.claims import Claim

_MOST: Final = 16_384
"""Callers, with a route or an endpoint each, whose claims are remembered."""
_UNLIMITED: Final = Quota()


class Claims(NamedTuple):
    """What a call claims, and whether tokens are among it."""

    items: tuple[Claim, ...] = ()
    tokens: bool = False


NOTHING: Final = Claims()


class _Remembered(NamedTuple):
    """Holds its principal, so that no other comes to its place in memory, by which it is found."""

    principal: Principal
    claims: Claims


class ClaimBook:
    """The claims of calls, by the present catalogue."""

    def __init__(self, *, most: int = _MOST) -> None:
        self._most = most
        self._catalogue: Catalogue | None = None
        self._remembered: OrderedDict[tuple[int, str], _Remembered] = OrderedDict()

    def of_caller(self, catalogue: Catalogue, principal: Principal, route: str) -> Claims:
        """Those of a principal, its groups and a route, by its name; empty for none."""
        if not route and not principal.quotas:
            return NOTHING
        return self._find(catalogue, principal, route)

    def of_endpoint(self, catalogue: Catalogue, principal: Principal, endpoint: str) -> Claims:
        """Those of an endpoint, by name, and of its cluster."""
        return self._find(catalogue, principal, endpoint) if endpoint in catalogue.endpoints else NOTHING

    def _find(self, catalogue: Catalogue, principal: Principal, name: str) -> Claims:
        if catalogue is not self._catalogue:
            self._remembered.clear()
            self._catalogue = catalogue
        key = (id(principal), name)
        found = self._remembered.get(key)
        if found is None:
            found = self._remembered[key] = _Remembered(principal, _claims(catalogue, principal, name))
            if len(self._remembered) > self._most:
                self._remembered.popitem(last=False)
        else:
            self._remembered.move_to_end(key)
        return found.claims


def _claims(catalogue: Catalogue, principal: Principal, name: str) -> Claims:
    endpoint = catalogue.endpoints.get(name)
    if endpoint is not None:
        cluster = catalogue.clusters.get(endpoint.cluster)
        items = [*(_limited(cluster.name, cluster.limits, principal) if cluster else ())]
        items += _limited(endpoint.name, endpoint.limits, principal)
    else:
        route = catalogue.routes.get(name)
        items = [Claim(one.subject, one.quota) for one in principal.quotas if one.quota != _UNLIMITED]
        items += _limited(route.name, route.limits, principal) if route else ()
    return Claims(tuple(items), any(claim.quota.bounds_tokens for claim in items))


def _limited(name: str, limits: Limits, principal: Principal) -> list[Claim]:
    claims = (Claim(name, limits.together), Claim(f"{name} {principal.name}", limits.each))
    return [claim for claim in claims if claim.quota != _UNLIMITED]
