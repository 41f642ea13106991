"""Certificates and secrets, each in a file of its own that Envoy reads by SDS.

Envoy watches the folders of the files that a secret names, and takes up what is renamed into place, without a restart
and without ending a connection (Envoy's documentation, "Secret discovery service", "SDS Configuration for File").
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from services.edge.edge import Edge
from services.edge.plain import Plain, typed

FRONT, MESH, MESH_CA, CLIENT_CA, FACADE_CA, COLLECTOR_CA, SERVICE_KEY = (
    "front",
    "mesh",
    "mesh-ca",
    "client-ca",
    "facade-ca",
    "collector-ca",
    "service-key",
)

_OF_THE_SYSTEM: Final = "/etc/ssl/certs/ca-certificates.crt"
"""Where Debian and its kin keep the authorities of the system; elsewhere `tracing.ca_file` must say it."""


def certificates(edge: Edge) -> dict[str, tuple[Path, Path]]:
    """The certificates that Envoy shows, each with its key, by the names of their secrets."""
    shown = {FRONT: edge.front_files}
    if (files := edge.mesh_files) is not None:
        shown[MESH] = (files.certificate, files.key)
    return shown


def authorities(edge: Edge) -> dict[str, Path]:
    """The files of authorities that it believes, by the names of their secrets."""
    believed = {}
    if (files := edge.mesh_files) is not None:
        assert files.ca is not None, "a part's files have one"
        believed[MESH_CA] = files.ca
    if edge.has_grpc and edge.asks_certificates:
        believed[CLIENT_CA] = edge.client_ca
    if edge.config.facade_ca_file:
        believed[FACADE_CA] = edge.home / edge.config.facade_ca_file
    if edge.collector and edge.tracing.endpoint.startswith("https://"):
        believed[COLLECTOR_CA] = edge.home / (edge.tracing.ca_file or _OF_THE_SYSTEM)
    return believed


def secret_files(edge: Edge) -> dict[str, Plain]:
    """The SDS files, by their names below the rendered directory."""
    secrets = {name: _certificate(name, *files) for name, files in certificates(edge).items()}
    secrets |= {name: _authorities(name, file) for name, file in authorities(edge).items()}
    return {_file(name): {"resources": [secret]} for name, secret in secrets.items()}


KEY_FILE: Final = f"sds/{SERVICE_KEY}.yaml"
"""What Envoy shows to auth where the mesh has no certificates. It is not rendered with the others, as it is secret."""


def key_file(service_key: str) -> Plain:
    """The content of `KEY_FILE`. The key stands in it: Envoy does not notice that a file it names has changed."""
    header = {"inline_string": f"Bearer {service_key}"}
    return {"resources": [_secret(SERVICE_KEY, generic_secret={"secret": header})]}


def secret(edge: Edge, name: str) -> Plain:
    """Where Envoy finds a secret, as `transport_sockets.tls.v3.SdsSecretConfig`."""
    path = edge.directory / _file(name)
    source = {"path": str(path), "watched_directory": {"path": str(path.parent)}}
    return {"name": name, "sds_config": {"path_config_source": source, "resource_api_version": "V3"}}


def _file(name: str) -> str:
    return f"sds/{name}.yaml"


def _certificate(name: str, chain: Path, key: Path) -> Plain:
    files = {"certificate_chain": _named(chain), "private_key": _named(key)}
    return _secret(name, tls_certificate={**files, "watched_directory": {"path": str(chain.parent)}})


def _authorities(name: str, file: Path) -> Plain:
    watched = {"path": str(file.parent)}
    return _secret(name, validation_context={"trusted_ca": _named(file), "watched_directory": watched})


def _secret(name: str, **what: Plain) -> Plain:
    return typed("extensions.transport_sockets.tls.v3.Secret", name=name, **what)


def _named(file: Path) -> Plain:
    return {"filename": str(file)}
