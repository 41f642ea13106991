"""Where a request goes, how long it may take, and when it is tried again."""

from __future__ import annotations

from typing import Any, Final

from services.edge.clusters import FACADE, ROUTER
from services.edge.edge import Edge
from services.edge.filters import UNASKED
from services.edge.plain import Plain, extension, seconds
from services.rpc.status import NOT_BEGUN

_LARGEST: Final = 2**63 - 1

_NOISE: Final = ("x-envoy-external-address", "x-envoy-expected-rq-timeout-ms")
"""What Envoy itself adds, and nobody behind it reads."""

_RPCS: Final = ("/weft.inference.v1.", "/grpc.reflection.v1.", "/grpc.reflection.v1alpha.")
"""What the gRPC front carries. No sessions of workers: a worker serves every router by a stream to each, and here it
would reach whichever Envoy picks (docs/adr/0019).
"""


def http_routes(edge: Edge) -> Plain:
    """For the facades. They know the paths; here are only those that Envoy must treat in another way."""
    routes = [
        _route("health", {"path": "/health"}, _action(edge, FACADE, timeout="5s"), unasked=True),
        # The facade refuses it as well, and a client that is still sending would not hear it.
        {
            "name": "too-large",
            "match": {"prefix": "/", "headers": [_longer_than(edge.max_body)]},
            "direct_response": {"status": 413},
        },
        _route("api", {"prefix": "/"}, _action(edge, FACADE, retry=_RETRY)),
    ]
    return _virtual_host("https", routes)


def grpc_routes(edge: Edge) -> Plain:
    """For the routers. What is not listed is UNIMPLEMENTED."""
    action = _action(edge, ROUTER, retry=_RETRY_ELSEWHERE)
    routes = [_route("health", _rpc("/grpc.health.v1.Health/"), _action(edge, ROUTER), unasked=True)]
    routes += [_route(prefix.strip("/."), _rpc(prefix), action) for prefix in _RPCS]
    return _virtual_host("grpc", routes)


def _virtual_host(front: str, routes: list[Plain]) -> Plain:
    host = {"name": front, "domains": ["*"], "routes": routes, "request_headers_to_remove": list(_NOISE)}
    return {"name": front, "virtual_hosts": [host]}


def _rpc(prefix: str) -> Plain:
    return {"prefix": prefix, "grpc": {}}


def _longer_than(size: int) -> Plain:
    return {"name": "content-length", "range_match": {"start": size + 1, "end": _LARGEST}}


def _route(name: str, match: Plain, action: Plain, *, unasked: bool = False) -> Plain:
    made: dict[str, Any] = {"name": name, "match": match, "route": action}
    return {**made, "typed_per_filter_config": UNASKED} if unasked else made


def _action(edge: Edge, cluster: str, *, timeout: str = "0s", retry: Plain | None = None) -> Plain:
    """No timeout for the whole: a stream may be long, and the router bounds every call itself (`router.*_timeout_s`).
    No `grpc_timeout_header_max` either: Envoy's own end of a deadline would be INTERNAL to a stream, where the router's
    is DEADLINE_EXCEEDED.
    """
    made: dict[str, Any] = {"cluster": cluster, "timeout": timeout, "idle_timeout": seconds(edge.config.idle_s)}
    return made if retry is None else {**made, "retry_policy": retry}


_RETRY: Final = {
    # What cannot have begun: no connection, a stream that was refused, a connection that ended before the request was
    # on it. The router tries other workers for all else, and twice would be once too often.
    "retry_on": "connect-failure,refused-stream,reset-before-request",
    "num_retries": 2,
    "retry_back_off": {"base_interval": "0.050s", "max_interval": "0.500s"},
    "host_selection_retry_max_attempts": 10,
    "retry_host_predicate": [
        extension(
            "retry_host_predicates.previous_hosts", "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
        )
    ],
}

_RETRY_ELSEWHERE: Final = {
    **_RETRY,
    # And what a router that is about to stop says of calls that it has not begun.
    "retry_on": "connect-failure,refused-stream,reset-before-request,retriable-headers",
    "retriable_headers": [{"name": NOT_BEGUN, "present_match": True}],
    "num_retries": 3,
}
