"""All that an Envoy's configuration is made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from services.edge.config import EnvoyConfig
from services.rpc.certificate import CertificateFiles
from services.runtime.telemetry.config import RATIO, TracingConfig
from services.runtime.tls import TlsConfig

PART = "envoy"
"""Its name among the mesh's certificates."""


def own_id(trust_domain: str) -> str:
    """The SPIFFE id in the certificate that `weft` makes for an Envoy, to be named in `tls.envoy_ids`."""
    return f"spiffe://{trust_domain}/{PART}"


@dataclass(frozen=True, slots=True)
class Edge:
    """Addresses are HOST:PORT; `max_body` is the largest body that facades take, in bytes."""

    config: EnvoyConfig
    home: Path
    facades: tuple[str, ...]
    routers: tuple[str, ...]
    auths: tuple[str, ...]
    max_body: int
    tls: TlsConfig = field(default_factory=TlsConfig)
    tracing: TracingConfig = field(default_factory=TracingConfig)

    @property
    def directory(self) -> Path:
        """Where the rendered files lie when Envoy runs."""
        return self.home / self.config.directory

    @property
    def mesh_files(self) -> CertificateFiles | None:
        """Envoy's own certificate towards the mesh; None if the mesh has no TLS."""
        return self.tls.files(PART, self.home)

    @property
    def front_files(self) -> tuple[Path, Path]:
        """The certificate, and its key, that clients see."""
        config = self.config
        if config.certificate_file:
            return self.home / config.certificate_file, self.home / config.key_file
        files = self.mesh_files
        assert files is not None, "checked when it was made"
        return files.certificate, files.key

    @property
    def asks_certificates(self) -> bool:
        """Whether the gRPC front asks callers for certificates."""
        return self.config.client_certificates != "none"

    @property
    def has_grpc(self) -> bool:
        """Whether there is a gRPC front: who is known by a certificate, only mutual TLS can tell the router."""
        return bool(self.config.grpc_address) and (self.mesh_files is not None or not self.asks_certificates)

    @property
    def client_ca(self) -> Path:
        """The authorities that may vouch for callers."""
        if self.config.client_ca_file:
            return self.home / self.config.client_ca_file
        files = self.mesh_files
        assert files is not None, "a front that asks for certificates is there with mutual TLS alone"
        assert files.ca is not None, "a part's files have one"
        return files.ca

    @property
    def collector(self) -> str:
        """Where Envoy sends spans of its own, HOST:PORT; empty if nowhere. It speaks OTLP by gRPC, and no key that the
        collector may want is put into its configuration.
        """
        tracing = self.tracing
        if not tracing.endpoint or tracing.protocol != "grpc" or tracing.headers_file:
            return ""
        url = urlsplit(tracing.endpoint if "://" in tracing.endpoint else f"http://{tracing.endpoint}")
        return f"{url.hostname}:{url.port or 4317}"

    @property
    def traced_percent(self) -> float:
        """How many of the calls that come without a trace begin one."""
        return 100.0 * (RATIO if self.tracing.ratio is None else self.tracing.ratio)
