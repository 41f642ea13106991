"""The parts of the mesh that Envoy calls, and a collector of spans: health, limits, windows."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from services.edge import sds, tls
from services.edge.config import host_of
from services.edge.edge import Edge
from services.edge.plain import Plain, address, extension, typed

FACADE: Final = "facade"
ROUTER: Final = "router"
AUTH: Final = "auth"
COLLECTOR: Final = "collector"

INFERENCE: Final = "weft.inference.v1.InferenceService"

BUFFER: Final = 1024 * 1024
"""Bytes that wait in Envoy for one connection; beyond it, Envoy stops reading from the other side."""

_KEEP_ALIVE: Final = {"interval": "30s", "timeout": "20s"}
"""HTTP/2's pings: what ends a connection to a machine that has gone without a word."""
_FACADE_IDLE: Final = "60s"
"""Sooner than the facade's own `keep_alive_s` (75 s): it must not close a connection on which a request is coming."""


def clusters(edge: Edge) -> list[Plain]:
    """All of them, in the order of the request's path."""
    made = [_facade(edge)] if edge.config.https_address else []
    if edge.has_grpc:
        made.append(_grpc(edge, ROUTER, edge.routers, tls.to_part(edge, "router"), service=INFERENCE))
    made.append(_grpc(edge, AUTH, edge.auths, tls.to_part(edge, "auth"), shows_key=edge.mesh_files is None))
    return [*made, _collector(edge)] if edge.collector else made


def _facade(edge: Edge) -> Plain:
    hosts = edge.facades
    socket = tls.to_host(edge, host_of(hosts[0]), sds.FACADE_CA, "http/1.1") if edge.config.facade_ca_file else None
    made = _cluster(edge, FACADE, hosts, socket)
    made["health_checks"] = [{**_CHECK, "http_health_check": {"path": "/health"}}]
    made["outlier_detection"] = _OUTLIERS
    options = {
        "common_http_protocol_options": {"idle_timeout": _FACADE_IDLE},
        "explicit_http_config": {"http_protocol_options": {}},
    }
    return made | _protocol(options)


def _grpc(
    edge: Edge, name: str, hosts: Sequence[str], socket: Plain | None, *, service: str = "", shows_key: bool = False
) -> Plain:
    made = _cluster(edge, name, hosts, socket)
    made["health_checks"] = [{**_CHECK, "grpc_health_check": {"service_name": service} if service else {}}]
    made["outlier_detection"] = _OUTLIERS
    options: Plain = {"explicit_http_config": {"http2_protocol_options": HTTP2}}
    if shows_key:
        options["http_filters"] = [_credential(edge), _CODEC]
    return made | _protocol(options)


def _collector(edge: Edge) -> Plain:
    secure = edge.tracing.endpoint.startswith("https://")
    socket = tls.to_host(edge, host_of(edge.collector), sds.COLLECTOR_CA, "h2") if secure else None
    return _cluster(edge, COLLECTOR, [edge.collector], socket) | _protocol(
        {"explicit_http_config": {"http2_protocol_options": {}}}
    )


def _cluster(edge: Edge, name: str, hosts: Sequence[str], socket: Plain | None) -> Plain:
    calls = edge.config.limits.calls
    made = {
        "name": name,
        "type": "STATIC" if all(_is_ip(host) for host in hosts) else "STRICT_DNS",
        "connect_timeout": "2s",
        "per_connection_buffer_limit_bytes": BUFFER,
        # In turn, and not to whom has the fewest calls: that is whoever refuses all at once, and a second try would
        # find the same one again.
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(host)}} for host in hosts]}],
        },
        "common_lb_config": {
            # Where all are ill, any is tried: below one in a hundred that are well, health does not count.
            "healthy_panic_threshold": {"value": 1.0},
            # By default, what is found within a second of another finding counts a second later: a router that has
            # long gone would be sent calls, and one that has come back none.
            "update_merge_window": "0s",
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    # An HTTP/1.1 connection for each call that is open.
                    "max_connections": calls,
                    "max_requests": calls,
                    "max_pending_requests": 1024,
                    "retry_budget": {"budget_percent": {"value": 20.0}, "min_retry_concurrency": 16},
                }
            ]
        },
    }
    return made if socket is None else {**made, "transport_socket": socket}


def _protocol(options: Plain) -> Plain:
    kind = "extensions.upstreams.http.v3.HttpProtocolOptions"
    return {"typed_extension_protocol_options": {f"envoy.{kind}": typed(kind, **options)}}


def _credential(edge: Edge) -> Plain:
    """Puts what stands in a file into `authorization` of whatever goes to that cluster: in the configuration, the key
    could be read in Envoy's administration, and in whatever keeps the configuration.
    """
    credential = extension(
        "http.injected_credentials.generic",
        "extensions.http.injected_credentials.generic.v3.Generic",
        credential=sds.secret(edge, sds.SERVICE_KEY),
    )
    return extension(
        "filters.http.credential_injector",
        "extensions.filters.http.credential_injector.v3.CredentialInjector",
        overwrite=True,
        credential=credential,
    )


_CODEC: Final = extension("filters.http.upstream_codec", "extensions.filters.http.upstream_codec.v3.UpstreamCodec")

_CHECK: Final = {
    # A busy machine may starve a part for seconds. A part that is away refuses connections, and is found as soon.
    "timeout": "5s",
    "interval": "1s",
    # A part that has just come, or has nobody to serve yet, is found as soon.
    "no_traffic_interval": "1s",
    "unhealthy_interval": "0.500s",
    "unhealthy_threshold": 2,
    "healthy_threshold": 1,
}

_OUTLIERS: Final = {
    # What a router or a facade answers tells of a model or of a caller, and not of the router: only connections that
    # fail count. Counting its UNAVAILABLE would put the last healthy router out for a model that has no worker.
    "split_external_local_origin_errors": True,
    "consecutive_local_origin_failure": 5,
    "enforcing_consecutive_local_origin_failure": 100,
    "enforcing_local_origin_success_rate": 0,
    "enforcing_consecutive_5xx": 0,
    "enforcing_consecutive_gateway_failure": 0,
    "enforcing_success_rate": 0,
    "enforcing_failure_percentage": 0,
    "enforcing_failure_percentage_local_origin": 0,
    "interval": "5s",
    "base_ejection_time": "10s",
    "max_ejection_percent": 50,
    "always_eject_one_host": False,
}

HTTP2: Final = {
    # All streams of a connection together may fill what each may: else clients that read slowly would use the
    # connection's window up, and stop the calls of others.
    "initial_stream_window_size": 64 * 1024,
    "initial_connection_window_size": 256 * 1024 * 1024,
    "connection_keepalive": _KEEP_ALIVE,
}


def _is_ip(host: str) -> bool:
    try:
        ip_address(host_of(host))
    except ValueError:
        return False
    return True
