"""The whole configuration of an Envoy, as plain data."""

from __future__ import annotations

from typing import Final

from services.edge.clusters import clusters
from services.edge.edge import Edge
from services.edge.listeners import listeners
from services.edge.plain import Plain, address, extension
from services.edge.sds import secret_files

BOOTSTRAP: Final = "envoy.yaml"


def rendered(edge: Edge) -> dict[str, Plain]:
    """Every file of the configuration, by its name below the rendered directory."""
    return {BOOTSTRAP: bootstrap(edge), **secret_files(edge)}


def bootstrap(edge: Edge) -> Plain:
    """What Envoy starts with; nothing of it is secret."""
    return {
        "node": {"id": "weft-envoy", "cluster": "weft"},
        "admin": {"address": address(edge.config.admin_address), "ignore_global_conn_limit": True},
        "static_resources": {"listeners": listeners(edge), "clusters": clusters(edge)},
        "overload_manager": _overload(edge),
    }


def _overload(edge: Edge) -> Plain:
    """When memory runs out, new requests are refused; streams that have begun are never reset for it."""
    limits = edge.config.limits
    heap = "resource_monitors.fixed_heap"
    return {
        "refresh_interval": "0.250s",
        "resource_monitors": [
            extension(
                "resource_monitors.global_downstream_max_connections",
                "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                max_active_downstream_connections=limits.connections,
            ),
            extension(
                heap,
                "extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                max_heap_size_bytes=limits.heap_bytes,
            ),
        ],
        "actions": [
            {"name": f"envoy.overload_actions.{action}", "triggers": [_at(f"envoy.{heap}", share)]}
            for action, share in (
                ("shrink_heap", 0.9),
                ("disable_http_keepalive", 0.92),
                ("stop_accepting_requests", 0.95),
                ("stop_accepting_connections", 0.98),
            )
        ],
    }


def _at(monitor: str, share: float) -> Plain:
    return {"name": monitor, "threshold": {"value": share}}
