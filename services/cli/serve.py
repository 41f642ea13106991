"""`weft serve SERVICE`: one service in this process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer

from services.cli.failures import CommandError
from services.cli.settings import load, metrics_of, serve_function
from services.runtime.logging import LogConfig
from services.runtime.telemetry.config import TracingConfig
from services.runtime.tls import TlsConfig

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Service(StrEnum):
    """What can be served."""

    AUTH = "auth"
    REGISTRY = "registry"
    ROUTER = "router"
    FACADE = "facade"
    LAUNCHER = "launcher"


@app.command()
def serve(
    service: Annotated[Service, typer.Argument(help="The service to run.")],
    grace: Annotated[float, typer.Option(help="Seconds that calls in flight have to finish after SIGTERM.")] = 30.0,
    ready_fd: Annotated[int | None, typer.Option(help="An inherited pipe, told in JSON when ready.")] = None,
) -> None:
    """Run one service until SIGTERM or Ctrl-C; its settings come from weft.yaml and the environment."""
    from services.runtime.service import run_service

    name = service.value
    config = load()
    code = run_service(
        name,
        partial(_function(name), config.sections[name]),
        home=config.home,
        log=config.section("log", LogConfig),
        metrics=metrics_of(config, name),
        grace=grace,
        ready_fd=ready_fd,
        tls=config.section("tls", TlsConfig),
        tracing=config.section("tracing", TracingConfig),
    )
    raise typer.Exit(code)


def _function(name: str) -> Callable[..., Awaitable[None]]:
    try:
        return serve_function(name)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("globus"):
            raise
        raise CommandError(
            "The launcher needs Globus's SDK: install it with pip install 'weft[globus,server]'."
        ) from None
