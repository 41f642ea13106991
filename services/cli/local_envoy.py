"""The Envoy of `weft up --envoy`: where it listens, what it shows, how it is started."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from services.cli.certificate_authority import CA
from services.cli.certs import DIRECTORY
from services.cli.parts import WEFT
from services.cli.ports import free_port, is_free
from services.edge.config import EnvoyConfig, host_of
from services.edge.edge import PART, own_id
from services.runtime.child import ChildSpec
from services.runtime.config import Config
from services.runtime.home import log_file
from services.runtime.tls import TlsConfig

_ANY = ("0.0.0.0", "::")  # noqa: S104 compared with, not listened at


def place_envoy(config: Config, *, apart: bool, mtls: bool, drain_s: float) -> dict[str, dict[str, Any]]:
    """The settings of the sections `envoy` and `tls`."""
    envoy, tls = config.section("envoy", EnvoyConfig), config.section("tls", TlsConfig)
    settings: dict[str, Any] = {"drain_s": drain_s}
    for name in ("https_address", "grpc_address", "admin_address"):
        settings[name] = _address(getattr(envoy, name), getattr(EnvoyConfig(), name), apart=apart)
    if not envoy.certificate_file and not mtls:
        settings |= {"certificate_file": f"{DIRECTORY}/{PART}.pem", "key_file": f"{DIRECTORY}/{PART}-key.pem"}
    ids = [*tls.envoy_ids, *({own_id(tls.trust_domain)} - set(tls.envoy_ids))]
    return {"envoy": settings, "tls": {"envoy_ids": ids} if mtls else {}}


def hosts_of(envoy: EnvoyConfig) -> tuple[str, ...]:
    """The names and addresses that its certificate is for."""
    named = {host_of(address) for address in (envoy.https_address, envoy.grpc_address) if address}
    others = [*named.difference(_ANY), *([socket.gethostname()] if named.intersection(_ANY) else [])]
    return tuple(dict.fromkeys(("localhost", "127.0.0.1", "::1", *others)))


def envoy_part(home: Path, environ: Mapping[str, str]) -> ChildSpec:
    """Envoy, with the process that drains it."""
    return ChildSpec(PART, (*WEFT, "envoy", "run"), log_file(home, PART), {"WEFT_HOME": str(home), **environ})


def url_of(address: str) -> str:
    """Where clients on this machine find it."""
    host, _, port = address.rpartition(":")
    return f"https://{'localhost' if host_of(address) in _ANY else host}:{port}"


def made_ca(config: Config, folder: Path) -> Path | None:
    """The authority that clients must be told to trust; None where the certificate is somebody's own."""
    return None if config.section("envoy", EnvoyConfig).certificate_file else folder / CA


def placed(config: Config, settings: Mapping[str, Any]) -> EnvoyConfig:
    """The section with these settings."""
    return msgspec.structs.replace(config.section("envoy", EnvoyConfig), **settings)


def _address(chosen: str, default: str, *, apart: bool) -> str:
    if not chosen:
        return chosen
    host, _, port = chosen.rpartition(":")
    taken = chosen == default and not is_free(host_of(chosen), int(port))
    return f"{host}:{free_port(host_of(chosen))}" if apart or taken else chosen
