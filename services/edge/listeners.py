"""The two fronts: HTTPS for the facades, gRPC for the routers."""

from __future__ import annotations

from typing import Any, Final

from services.edge import tls
from services.edge.access_log import access_log
from services.edge.clusters import BUFFER, COLLECTOR
from services.edge.edge import Edge
from services.edge.filters import early_mutations, filters
from services.edge.local_replies import local_replies
from services.edge.plain import Plain, address, extension, seconds, typed
from services.edge.routes import grpc_routes, http_routes

HTTPS: Final = "https"
GRPC: Final = "grpc"

_DRAIN: Final = 2.0
"""Seconds between the two GOAWAYs of a connection that is drained, in which its client's last requests arrive."""


def listeners(edge: Edge) -> list[Plain]:
    """Those that the configuration has."""
    made = []
    if edge.config.https_address:
        manager = _manager(
            edge,
            HTTPS,
            http_routes(edge),
            forward_client_cert_details="SANITIZE",
            local_reply_config=local_replies(edge),
        )
        made.append(_listener(HTTPS, edge.config.https_address, tls.https_front(edge), manager))
    if edge.has_grpc:
        identity: Plain = {"forward_client_cert_details": "SANITIZE"}
        if edge.asks_certificates:
            identity = {
                "forward_client_cert_details": "SANITIZE_SET",
                "set_current_client_cert_details": {"uri": True},
            }
        manager = _manager(edge, GRPC, grpc_routes(edge), **identity)
        made.append(_listener(GRPC, edge.config.grpc_address, tls.grpc_front(edge), manager))
    return made


def _listener(name: str, where: str, socket: Plain, manager: Plain) -> Plain:
    return {
        "name": name,
        "address": address(where),
        "per_connection_buffer_limit_bytes": BUFFER,
        "listener_filters_timeout": "10s",
        "filter_chains": [
            {"name": name, "transport_socket_connect_timeout": "10s", "transport_socket": socket, "filters": [manager]}
        ],
    }


def _manager(edge: Edge, front: str, routes: Plain, **more: Any) -> Plain:
    return extension(
        "filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=front,
        codec_type="AUTO" if front == HTTPS else "HTTP2",
        http_filters=filters(edge, front),
        route_config=routes,
        early_header_mutation_extensions=early_mutations(),
        access_log=access_log(edge),
        **({"tracing": _tracing(edge)} if edge.collector else {}),
        **_TIMES,
        stream_idle_timeout=seconds(edge.config.idle_s),
        **_TRUST,
        max_request_headers_kb=60,
        common_http_protocol_options={
            "idle_timeout": "600s",
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_headers_count": 100,
        },
        http2_protocol_options={
            "max_concurrent_streams": 1000,
            # A body may fill the first, those of a connection together the second.
            "initial_stream_window_size": 256 * 1024,
            "initial_connection_window_size": 16 * 1024 * 1024,
            "connection_keepalive": {"interval": "30s", "timeout": "20s"},
        },
        server_header_transformation="PASS_THROUGH",
        **more,
    )


_TIMES: Final = {
    "request_headers_timeout": "10s",
    # The facade has a bound for bodies, and says so in its own words.
    "request_timeout": "0s",
    "drain_timeout": seconds(_DRAIN),
}

_TRUST: Final = {
    # The client's address is that of the connection, and no header's; and nobody is "internal", whose `x-envoy-…` and
    # request ids Envoy would otherwise believe.
    "use_remote_address": True,
    "internal_address_config": {"cidr_ranges": []},
    # A client finds its request by its own id, as at the facade; Envoy must not write its own bits into it.
    "generate_request_id": True,
    "preserve_external_request_id": True,
    "request_id_extension": {
        "typed_config": typed(
            "extensions.request_id.uuid.v3.UuidRequestIdConfig",
            pack_trace_reason=False,
            use_request_id_for_trace_sampling=False,
        )
    },
    "normalize_path": True,
    "merge_slashes": True,
    # What Envoy, auth and the facade judge is to be one path. Refusing them would refuse models with a slash in their
    # name, which OpenAI's client escapes.
    "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
}


def _tracing(edge: Edge) -> Plain:
    provider = extension(
        "tracers.opentelemetry",
        "config.trace.v3.OpenTelemetryConfig",
        grpc_service={"envoy_grpc": {"cluster_name": COLLECTOR}, "timeout": "2s"},
        service_name="weft-envoy",
    )
    return {
        "provider": provider,
        "random_sampling": {"value": edge.traced_percent},
        # The tag holds the query, too, and whoever puts a key there must not find it here.
        "max_path_tag_length": 1,
        "custom_tags": [{"tag": "url.path", "value": "%PATH(NQ:PATH)%"}],
    }
