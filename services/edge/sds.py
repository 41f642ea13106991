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


def secret_files(edge: Edge) -> dict[str, Plain]:
    """The SDS files, by their names below the rendered directory."""
    secrets = {FRONT: _certificate(FRONT, *edge.front_files)}
    files = edge.mesh_files
    if files is not None:
        assert files.ca is not None, "a part's files have one"
        secrets[MESH] = _certificate(MESH, files.certificate, files.key)
        secrets[MESH_CA] = _authorities(MESH_CA, files.ca)
    if edge.has_grpc and edge.asks_certificates:
        secrets[CLIENT_CA] = _authorities(CLIENT_CA, edge.client_ca)
    if edge.config.facade_ca_file:
        secrets[FACADE_CA] = _authorities(FACADE_CA, edge.home / edge.config.facade_ca_file)
    if edge.collector and edge.tracing.ca_file:
        secrets[COLLECTOR_CA] = _authorities(COLLECTOR_CA, edge.home / edge.tracing.ca_file)
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
