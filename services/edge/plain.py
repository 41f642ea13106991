"""Small pieces of Envoy's configuration, as the plain data that YAML is written from."""

from __future__ import annotations

from typing import Any, Final

from services.edge.config import host_of

Plain = dict[str, Any]

_TYPES: Final = "type.googleapis.com/envoy."


def typed(kind: str, **fields: Any) -> Plain:
    """A `google.protobuf.Any` of the message `envoy.{kind}`."""
    return {"@type": _TYPES + kind, **fields}


def extension(name: str, kind: str, **fields: Any) -> Plain:
    """An extension of Envoy with its configuration."""
    return {"name": f"envoy.{name}", "typed_config": typed(kind, **fields)}


def address(where: str) -> Plain:
    """HOST:PORT as `config.core.v3.Address`."""
    return {"socket_address": {"address": host_of(where), "port_value": int(where.rpartition(":")[2])}}


def seconds(duration: float) -> str:
    """A `google.protobuf.Duration`."""
    return f"{duration:g}s" if duration == int(duration) and duration < 1e5 else f"{duration:.3f}s"
