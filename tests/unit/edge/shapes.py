"""The shapes that an Envoy's configuration may have."""

from pathlib import Path

from services.edge.config import EnvoyConfig
from services.edge.edge import Edge
from services.runtime.telemetry.config import TracingConfig
from services.runtime.tls import TlsConfig

HOME = Path("/var/lib/weft")
MUTUAL = TlsConfig(directory="certs", envoy_ids=("spiffe://weft/envoy",))
OWN = {"certificate_file": "front.pem", "key_file": "front-key.pem"}


def edge(
    config: EnvoyConfig | None = None,
    tls: TlsConfig = MUTUAL,
    tracing: TracingConfig | None = None,
    facades: tuple[str, ...] = ("127.0.0.1:8080",),
    routers: tuple[str, ...] = ("127.0.0.1:7000",),
) -> Edge:
    """An edge, by default with mutual TLS."""
    return Edge(
        config or EnvoyConfig(),
        HOME,
        facades,
        routers,
        ("127.0.0.1:7002",),
        32 * 1024 * 1024,
        tls,
        tracing or TracingConfig(),
    )


SHAPES = {
    "mutual": edge(),
    "plain": edge(EnvoyConfig(**OWN), TlsConfig()),
    "keys": edge(EnvoyConfig(**OWN, client_certificates="none", access_log=""), TlsConfig()),
    "optional": edge(EnvoyConfig(client_certificates="optional", client_ca_file="callers.pem", **OWN)),
    "https-alone": edge(EnvoyConfig(grpc_address="", access_log="-")),
    "grpc-alone": edge(EnvoyConfig(https_address="")),
    "several": edge(facades=("10.0.0.1:8080", "10.0.0.2:8080"), routers=("router-1:7000", "router-2:7000")),
    "facades-by-tls": edge(EnvoyConfig(facade_ca_file="facades.pem"), facades=("facade.example.org:443",)),
    "traced": edge(tracing=TracingConfig(endpoint="http://127.0.0.1:4317", ratio=0.5)),
    "traced-by-tls": edge(tracing=TracingConfig(endpoint="https://otel.example.org", ca_file="collector.pem")),
    "traced-by-the-systems-authorities": edge(tracing=TracingConfig(endpoint="https://otel.example.org:443")),
}
