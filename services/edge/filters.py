"""What a request passes on its way through a front: rate limit, auth, router."""

from __future__ import annotations

from typing import Final

from services.edge.clusters import AUTH
from services.edge.edge import Edge
from services.edge.plain import Plain, extension, typed

AUTHZ: Final = "filters.http.ext_authz"
_AUTHZ_KIND: Final = "extensions.filters.http.ext_authz.v3"

UNASKED: Final = {f"envoy.{AUTHZ}": typed(f"{_AUTHZ_KIND}.ExtAuthzPerRoute", disabled=True)}
"""For the routes that tell of health: also where auth is away."""

_SEEN: Final = ("authorization", "content-type", "traceparent", "tracestate", "x-api-key", "x-request-id")
"""The headers that auth judges by; what it need not know it does not see."""

_FOREIGN: Final = ("x-weft-", "x-envoy-", "x-forwarded-client-cert", "x-b3-", "x-ot-", "x-amzn-oidc-")
"""Beginnings of headers by which parts of a mesh, and proxies, tell each other things. From outside, they are lies."""
_FOREIGN_NAMES: Final = (
    "remote-user",
    "x-auth-request-email",
    "x-auth-request-groups",
    "x-auth-request-user",
    "x-client-trace-id",
    "x-forwarded-access-token",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-host",
    "x-forwarded-preferred-username",
    "x-forwarded-user",
    "x-original-url",
    "x-remote-user",
    "x-rewrite-url",
)


def early_mutations() -> list[Plain]:
    """Takes identity from outside away before any filter, and tracing, looks at the request."""
    prefixes = [{"remove_on_match": {"key_matcher": {"prefix": prefix, "ignore_case": True}}} for prefix in _FOREIGN]
    return [
        extension(
            "http.early_header_mutation.header_mutation",
            "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            mutations=[*prefixes, *({"remove": name} for name in _FOREIGN_NAMES)],
        )
    ]


def filters(edge: Edge, front: str) -> list[Plain]:
    """In order: a flood is stopped before it becomes auth's."""
    return [_rate_limit(edge, front), _ext_authz(), _router()]


def _rate_limit(edge: Edge, front: str) -> Plain:
    limits = edge.config.limits
    # In tenths of a second, so that a second's worth does not come all at its beginning.
    per_fill, interval = (limits.requests_per_second // 10, "0.100s")
    if per_fill * 10 != limits.requests_per_second:
        per_fill, interval = limits.requests_per_second, "1s"
    everything = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return extension(
        "filters.http.local_ratelimit",
        "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix=f"{front}_rate",
        token_bucket={"max_tokens": limits.burst, "tokens_per_fill": per_fill, "fill_interval": interval},
        filter_enabled=everything,
        filter_enforced=everything,
        rate_limited_as_resource_exhausted=True,
    )


def _ext_authz() -> Plain:
    return extension(
        AUTHZ,
        f"{_AUTHZ_KIND}.ExtAuthz",
        transport_api_version="V3",
        grpc_service={"envoy_grpc": {"cluster_name": AUTH}, "timeout": "5s"},
        failure_mode_allow=False,
        status_on_error={"code": "ServiceUnavailable"},
        # One by one, so that a second credential is seen as one.
        encode_raw_headers=True,
        allowed_headers={"patterns": [{"exact": name} for name in _SEEN]},
    )


def _router() -> Plain:
    # No `x-envoy-…` of its own either: to clients it would tell of the inside, to the router it would be noise.
    return extension("filters.http.router", "extensions.filters.http.router.v3.Router", suppress_envoy_headers=True)
