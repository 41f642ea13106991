"""Transport sockets: how the fronts show themselves to clients, and Envoy to the mesh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.edge import sds
from services.edge.edge import Edge
from services.edge.plain import Plain, extension
from services.rpc.peer import part_host, part_id

_SOCKET = "transport_sockets.tls"
_KIND = "extensions.transport_sockets.tls.v3"


def https_front(edge: Edge) -> Plain:
    """TLS without a client certificate."""
    return _down(edge, ["h2", "http/1.1"])


def grpc_front(edge: Edge) -> Plain:
    """TLS that asks callers for certificates, of our trust domain alone: an id of another must not even arrive."""
    if not edge.asks_certificates:
        return _down(edge, ["h2"])
    validation = _validated(
        edge, sds.CLIENT_CA, [{"san_type": "URI", "matcher": {"prefix": f"spiffe://{edge.tls.trust_domain}/"}}]
    )
    return _down(
        edge,
        ["h2"],
        require_client_certificate=edge.config.client_certificates == "required",
        validation=validation,
    )


def to_part(edge: Edge, part: str) -> Plain | None:
    """Mutual TLS to a part of the mesh, which must show its own SPIFFE id; None where the mesh has no TLS."""
    if edge.mesh_files is None:
        return None
    domain = edge.tls.trust_domain
    names = [{"san_type": "URI", "matcher": {"exact": part_id(domain, part)}}]
    certificates = [sds.secret(edge, sds.MESH)]
    return _up(
        part_host(domain, part),
        ["h2"],
        **_validated(edge, sds.MESH_CA, names),
        tls_certificate_sds_secret_configs=certificates,
    )


def to_host(edge: Edge, host: str, secret: str, protocol: str) -> Plain:
    """TLS to a server with a certificate for its host, of the authorities in a secret."""
    kind = "IP_ADDRESS" if host.replace(".", "").isdecimal() or ":" in host else "DNS"
    names = [{"san_type": kind, "matcher": {"exact": host}}]
    return _up(host, [protocol], **_validated(edge, secret, names))


def _down(edge: Edge, protocols: list[str], *, validation: Plain | None = None, **fields: Any) -> Plain:
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "alpn_protocols": protocols,
        "tls_certificate_sds_secret_configs": [sds.secret(edge, sds.FRONT)],
        **(validation or {}),
    }
    return extension(_SOCKET, f"{_KIND}.DownstreamTlsContext", common_tls_context=common, **fields)


def _up(sni: str, protocols: list[str], **common: Any) -> Plain:
    tls = {"tls_params": {"tls_minimum_protocol_version": "TLSv1_2"}, "alpn_protocols": protocols, **common}
    return extension(_SOCKET, f"{_KIND}.UpstreamTlsContext", sni=sni, common_tls_context=tls)


def _validated(edge: Edge, secret: str, names: Sequence[Plain]) -> Plain:
    return {
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": list(names)},
            "validation_context_sds_secret_config": sds.secret(edge, secret),
        }
    }
