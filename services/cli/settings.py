"""The services that `weft` runs, and the configuration of them all."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import Any

from services.cli.login_config import LoginConfig
from services.edge.config import EnvoyConfig
from services.runtime.config import Config, load_config
from services.runtime.logging import LogConfig
from services.runtime.metrics import MetricsConfig
from services.runtime.process import Process
from services.runtime.telemetry.config import TracingConfig
from services.runtime.tls import TlsConfig

SERVICES = ("router", "registry", "auth", "facade", "launcher")
"""In the order of their metrics ports: the first is at `metrics.port`."""

INSIDE = ("router", "registry", "auth", "facade")
"""Those that can share a process. The launcher has its own: it holds Globus's secrets and runs its threads."""


def config_type(service: str) -> type[Any]:
    """The type of a service's section, imported when it is needed."""
    kind: type[Any] = getattr(import_module(f"services.{service}.config"), f"{service.capitalize()}Config")
    return kind


def serve_function(service: str) -> Callable[[Any, Process], Awaitable[None]]:
    """What runs a service, imported when it is needed."""
    serve: Callable[[Any, Process], Awaitable[None]] = import_module(f"services.{service}.main").serve
    return serve


def load(environ: Mapping[str, str] = os.environ) -> Config:
    """The effective configuration. Raises `ConfigError`."""
    services = {service: config_type(service) for service in SERVICES}
    of_all = {"log": LogConfig, "metrics": MetricsConfig, "tls": TlsConfig, "tracing": TracingConfig}
    return load_config({**services, **of_all, "login": LoginConfig, "envoy": EnvoyConfig}, environ)


def metrics_of(config: Config, service: str) -> MetricsConfig:
    """Where a service's own process serves its metrics."""
    first = config.section("metrics", MetricsConfig)
    if not first.port:
        return first
    return MetricsConfig(host=first.host, port=first.port + SERVICES.index(service))
