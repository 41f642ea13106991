"""The section `envoy` of weft.yaml. Durations are in seconds, sizes in bytes; files are relative to the home."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class EdgeLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one Envoy bears, whoever calls: what each caller may use is `auth.quotas`' affair."""

    connections: Count = 10_000
    """Of clients, both fronts together."""
    calls: Count = 8192
    """Open at once, of each front."""
    requests_per_second: Count = 1000
    """Of each front, on average; beyond it and the `burst`, 429."""
    burst: Count = 2000
    heap_bytes: Count = 2 * 1024**3
    """From 95 % of it on, new requests are refused with 503; those that are open go on."""


class EnvoyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An Envoy in front of the mesh: where it listens, what it shows, whom it asks, and what it bears (docs/envoy.md).
    What is not said here is taken from the other sections of the same file.
    """

    https_address: str = "127.0.0.1:8443"
    """The HTTP API, for the facades. Empty means none."""
    grpc_address: str = "127.0.0.1:8444"
    """The gRPC API, for the routers. Empty means none."""
    admin_address: str = "127.0.0.1:9901"
    """Envoy's own administration. Whoever reaches it may stop Envoy: on loopback alone."""
    directory: str = "envoy"
    """Where the rendered files lie when Envoy runs."""
    certificate_file: str = ""
    """What both fronts show, with its chain, in PEM. Empty means the one of 'envoy' among the mesh's certificates."""
    key_file: str = ""
    client_certificates: Literal["required", "optional", "none"] = "required"
    """Of callers at the gRPC front. With other than `none`, that front needs a mesh with mutual TLS, as the router
    believes nobody else who tells it of certificates.
    """
    client_ca_file: str = ""
    """The authorities that may vouch for callers. Empty means `tls.ca_file`."""
    facades: tuple[str, ...] = ()
    facade_ca_file: str = ""
    """With it Envoy speaks HTTPS to the facades, which show certificates of these authorities."""
    routers: tuple[str, ...] = ()
    auths: tuple[str, ...] = ()
    service_key_file: str = ""
    """The key that Envoy shows to auth where the mesh has no certificates; empty means `service.key`."""
    access_log: str = "log/envoy-access.log"
    """A line of JSON for each request. `-` is standard output; empty means none."""
    idle_s: Seconds = 3900.0
    """After so long without a byte in either direction a call is taken to be dead. Longer than
    `router.total_timeout_s`, so that a call ends with the router's words.
    """
    drain_s: Seconds = 60.0
    """How long calls that are open have to end after SIGTERM."""
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    """0 means one for each CPU."""
    limits: EdgeLimits = EdgeLimits()

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec tells with the section."""
        for name in ("https_address", "grpc_address", "admin_address"):
            if (value := getattr(self, name)) or name == "admin_address":
                check_address(f"envoy.{name}", value)
        for name in ("facades", "routers", "auths"):
            for value in getattr(self, name):
                check_address(f"envoy.{name}", value)
        if not ip_address(host_of(self.admin_address)).is_loopback:
            raise ValueError("'envoy.admin_address' must be an address of loopback: whoever reaches it may stop Envoy")
        if bool(self.certificate_file) != bool(self.key_file):
            raise ValueError("'envoy.certificate_file' and 'envoy.key_file' belong together; give both, or none")


def check_address(setting: str, value: str) -> None:
    """Raises ValueError unless it is HOST:PORT; Envoy listens at IP addresses alone."""
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"'{setting}' must be HOST:PORT, not {value!r}")
    if setting.endswith("_address"):
        try:
            ip_address(host_of(value))
        except ValueError:
            raise ValueError(f"'{setting}' must be an IP address and a port, not {value!r}") from None


def host_of(address: str) -> str:
    """The host of HOST:PORT, an IPv6 address without its brackets."""
    return address.rpartition(":")[0].strip("[]")
