"""The processes of a mesh on one machine: how each is started."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.rpc.certificate import CertificateFiles
from services.runtime.child import ChildSpec
from services.runtime.home import log_file
from services.runtime.tls import TlsConfig

_NO_TLS: Final = TlsConfig()
WEFT = (sys.executable, "-m", "services.cli")

KEYS: Final[Sequence[Mapping[str, Any]]] = (
    {
        "file": "dev.key",
        "principal": "users/dev",
        "display_name": "For trying things out",
        "roles": ["user", "admin"],
        "allow_models": ["*"],
    },
    {
        "file": "worker.key",
        "principal": "workers/local",
        "display_name": "For the workers of this machine",
        "roles": ["worker"],
        "allow_endpoints": ["*"],
    },
    {
        "file": "service.key",
        "principal": "services/local",
        "display_name": "For the services of this machine",
        "roles": ["service"],
    },
)
"""The keys that a mesh on one machine begins with, as auth's `bootstrap_keys`."""

Overrides = Mapping[str, Mapping[str, Any]]
"""Settings by section and key, on top of weft.yaml."""


def to_environ(overrides: Overrides) -> dict[str, str]:
    """The overrides as the variables that services read. JSON is YAML too."""
    return {
        f"WEFT_{section.upper()}__{key.upper()}": json.dumps(value)
        for section, settings in overrides.items()
        for key, value in settings.items()
    }


def service_part(name: str, home: Path, environ: Mapping[str, str], *, grace: float) -> ChildSpec:
    """One service in its own process."""
    return ChildSpec(
        name,
        (*WEFT, "serve", name, "--grace", str(grace)),
        log_file(home, name),
        {"WEFT_HOME": str(home), **environ},
    )


@dataclass(frozen=True, slots=True)
class Vllm:
    """What a worker attaches: a vLLM at `url`, or one that it launches with `command`."""

    url: str = ""
    command: Sequence[str] = ()

    def flags(self, log: Path) -> list[str]:
        """How `weft worker` is told."""
        flags = ["--vllm-url", self.url] if self.url else []
        if self.command:
            flags += ["--vllm-command", shlex.join(self.command), "--vllm-log", str(log)]
        return flags


def simulated_vllm(*flags: str) -> Vllm:
    """A simulator; `flags` are its own. `{port}` is for the worker to fill in."""
    return Vllm(command=(sys.executable, "-m", "services.sim", "--port", "{port}", *flags))


def real_vllm(program: str, model: str, *, traced: bool = False) -> Vllm:
    """A `vllm serve`, on loopback; `traced`, it sends its spans to its worker."""
    spans = ("--otlp-traces-endpoint", "{otlp}") if traced else ()
    return Vllm(command=(program, "serve", model, "--host", "127.0.0.1", "--port", "{port}", *spans))


def _certificate_flags(files: CertificateFiles) -> list[str]:
    return [
        *("--router-ca", str(files.ca)),
        *("--tls-certificate-file", str(files.certificate), "--tls-key-file", str(files.key)),
    ]


def worker_part(
    name: str,
    home: Path,
    vllm: Vllm,
    *,
    router: str,
    endpoint: str,
    grace: float,
    flags: Sequence[str] = (),
    tls: TlsConfig = _NO_TLS,
) -> ChildSpec:
    """One worker in its own process, beside a router of the same machine."""
    files = tls.files("worker", home)
    if files is not None:
        router = f"https://{router}"
        flags = ("--proxy", "none", *_certificate_flags(files), *flags)
    command = (
        *(*WEFT, "worker", "--router", router, "--endpoint", endpoint, "--key-file", str(home / "worker.key")),
        *("--grace", str(grace)),
        *vllm.flags(log_file(home, name.replace("worker", "vllm"))),
        *flags,
    )
    return ChildSpec(name, command, log_file(home, name), {"WEFT_HOME": str(home)}, announces=False)
