"""What mesh `weft up` is to start, and where its parts listen."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from services.cli.certs import DIRECTORY
from services.cli.failures import CommandError
from services.cli.local_envoy import place_envoy
from services.cli.parts import KEYS, Overrides, Vllm, real_vllm, simulated_vllm
from services.cli.ports import free_port, is_free
from services.cli.settings import SERVICES
from services.cli.vllm_program import can_trace
from services.runtime.config import Config
from services.runtime.metrics import MetricsConfig
from services.runtime.telemetry.config import TracingConfig
from services.runtime.tls import TlsConfig

GRACE = 10.0
"""Seconds that each part has to finish its calls; on one's own machine nobody waits longer for Ctrl-C."""

DEFAULT_PORTS = {"router": 7000, "registry": 7001, "auth": 7002, "launcher": 7003}


@dataclass(frozen=True, slots=True)
class Shape:
    """What mesh is wanted. With `apart`, every port is a free one, so that no other mesh is disturbed. With `launcher`,
    workers are also started through Globus Compute, for the endpoints that say how; there may then be none of its own.
    With `mtls`, the parts speak mutual TLS, as they do where `tls.directory` says so.
    """

    one_process: bool = False
    workers: int = 1
    port: int | None = None
    vllm_urls: Sequence[str] = ()
    vllm_model: str | None = None
    apart: bool = False
    launcher: bool = False
    mtls: bool = False
    envoy: bool = False
    """An Envoy in front, which clients reach by HTTPS."""

    @property
    def endpoint(self) -> str:
        """The endpoint that the workers serve."""
        return f"clusters/local/endpoints/{'vllm' if self.vllm_urls or self.vllm_model else 'sim'}"

    def vllms(self) -> list[Vllm]:
        """What each worker attaches. Raises `CommandError` if there is no `vllm` to launch."""
        if self.vllm_urls:
            return [Vllm(url=url) for url in self.vllm_urls]
        if self.vllm_model is None:
            return [simulated_vllm()] * self.workers
        program = shutil.which("vllm")
        if program is None:
            raise CommandError(
                "There is no 'vllm' in PATH: install it as https://docs.vllm.ai tells, or attach one that runs "
                "with --vllm-url."
            )
        return [real_vllm(program, self.vllm_model, traced=can_trace(program))] * self.workers


def place(config: Config, shape: Shape) -> Overrides:
    """The settings that make the parts listen, and find each other. Raises `CommandError` if a port is taken."""
    auth, registry, router, launcher = (
        _internal(config, shape, service) for service in ("auth", "registry", "router", "launcher")
    )
    host, port = _facade(config, shape)
    directory = config.section("tls", TlsConfig).directory or (DIRECTORY if shape.mtls else "")
    apart = shape.apart or shape.port == 0
    front = place_envoy(config, apart=apart, mtls=bool(directory), drain_s=GRACE) if shape.envoy else {}
    return {
        "auth": {"address": auth, "bootstrap_keys": _keys(config)},
        "registry": {"address": registry, "auth_address": auth, "seed": _seed(config, shape)},
        "router": {
            "address": router,
            "registry_address": registry,
            "auth_address": auth,
            "launcher_address": launcher,
        },
        "launcher": {
            "address": launcher,
            "registry_address": registry,
            "auth_address": auth,
            "router_addresses": [router],
        },
        "facade": {"host": host, "port": port, "router_address": router},
        "metrics": {"port": _metrics(config, shape)},
        "tls": {"directory": directory, **front.get("tls", {})},
        **({"envoy": front["envoy"]} if shape.envoy else {}),
        "tracing": _tracing(config.section("tracing", TracingConfig)),
    }


def _tracing(section: TracingConfig) -> dict[str, Any]:
    """On one's own machine all is traced and kept, unless weft.yaml says otherwise."""
    return {
        "local": True if section.local is None else section.local,
        "ratio": 1.0 if section.ratio is None else section.ratio,
    }


def _keys(config: Config) -> list[Any]:
    """What weft.yaml has for bootstrap keys, and those that this mesh needs."""
    configured: list[Any] = list(msgspec.to_builtins(config.sections["auth"].bootstrap_keys))
    files = {key["file"] for key in configured}
    return configured + [key for key in KEYS if key["file"] not in files]


def _seed(config: Config, shape: Shape) -> dict[str, Any]:
    """What weft.yaml seeds, and the endpoint of the workers; the registry makes what does not exist yet."""
    seed: dict[str, Any] = msgspec.to_builtins(config.sections["registry"].seed)
    if shape.workers:
        seed["endpoints"] = [*seed["endpoints"], {"name": shape.endpoint}]
    return seed


def _internal(config: Config, shape: Shape, service: str) -> str:
    address = str(config.sections[service].address)
    host, _, port = address.rpartition(":")
    # A port that somebody chose is theirs; what stands in its way is told by the service itself.
    movable = int(port) == DEFAULT_PORTS[service] and not is_free(host, int(port))
    return f"{host}:{free_port(host)}" if shape.apart or movable else address


def _facade(config: Config, shape: Shape) -> tuple[str, int]:
    section = config.sections["facade"]
    host = str(section.host)
    if shape.apart or shape.port == 0:
        return host, free_port(host)
    port = int(section.port if shape.port is None else shape.port)
    if not is_free(host, port):
        raise CommandError(f"Port {port} of {host} is in use; choose another with --port.")
    return host, port


def _metrics(config: Config, shape: Shape) -> int | None:
    section = config.section("metrics", MetricsConfig)
    if not section.port:
        return section.port
    taken = not all(is_free(section.host, section.port + number) for number in range(len(SERVICES)))
    return 0 if shape.apart or taken else section.port
