"""The flags of `weft endpoints create` and `update` that are about Globus Compute."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer
from google.protobuf.duration_pb2 import Duration
from weft.registry.v1 import resources_pb2

from services.cli.flags import seconds, time_option, with_flags


def endpoint_uuid(text: str) -> str:
    """The UUID of an endpoint as a flag gives it; '' stands for none. Raises `typer.BadParameter`."""
    try:
        return str(uuid.UUID(text)) if text else ""
    except ValueError:
        message = f"{text!r} is no UUID; 'globus-compute-endpoint list' shows it, where the endpoint runs"
        raise typer.BadParameter(message) from None


@dataclass(frozen=True, slots=True)
class GlobusFlags:
    """What the flags say; None where one is not given."""

    globus: Annotated[
        str | None,
        typer.Option(metavar="UUID", parser=endpoint_uuid, help="The Globus Compute endpoint that starts its workers."),
    ] = None
    min_workers: Annotated[int | None, typer.Option(min=0, help="Workers that it has always.")] = None
    max_workers: Annotated[int | None, typer.Option(min=1, help="Workers that it has at most; 1 by default.")] = None
    calls_per_worker: Annotated[
        int | None, typer.Option(min=0, help="Calls at one worker before another is started; 0: calls start no second.")
    ] = None
    idle_time: Annotated[str | None, time_option("How long a worker may be without calls before it is stopped:")] = None
    keep_warm: Annotated[
        bool | None, typer.Option("--keep-warm/--no-keep-warm", help="Leave the last worker until its job ends.")
    ] = None
    walltime: Annotated[str | None, time_option("The walltime of a job, where its scheduler does not tell it:")] = None
    queue_time: Annotated[str | None, time_option("How long a job may wait in the queue before it is given up:")] = None
    replace_before: Annotated[str | None, time_option("How long before a job's end the next is started:")] = None
    config: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A value for the endpoint's template: JSON, else text; all anew."),
    ] = None
    call_mode: Annotated[
        str | None,
        typer.Option(metavar="MODE", help="How calls travel: auto, session, or task where nodes cannot dial."),
    ] = None
    credentials: Annotated[
        str | None, typer.Option(help="A name in 'launcher.credentials' of the launcher's configuration.")
    ] = None
    serves: Annotated[
        str | None,
        typer.Option(metavar="users/USER", help="The one person whom workers serve, as under their account."),
    ] = None
    api_port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Where vLLM listens on its node; 0 leaves it to the worker.")
    ] = None
    router: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS", help="host:port or https://host that workers dial; all anew.")
    ] = None
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="UUID", parser=endpoint_uuid, help="The Globus Compute endpoint that runs batches; '' for none."
        ),
    ] = None

    @property
    def given(self) -> bool:
        """Whether any is."""
        return any(getattr(self, field.name) is not None for field in fields(self))

    def put(self, backend: resources_pb2.GlobusBackend) -> None:
        """Changes what is given. Raises `typer.BadParameter` for what cannot be read."""
        launch = backend.launch
        if self.globus is not None:
            launch.start_worker.endpoint_uuid = self.globus
        for name in ("min_workers", "max_workers", "calls_per_worker", "keep_warm", "serves"):
            if (value := getattr(self, name)) is not None:
                setattr(launch, name, value)
        for name in ("idle_time", "walltime", "queue_time", "replace_before"):
            if (text := getattr(self, name)) is not None:
                _put_time(launch, name, text)
        if self.config is not None:
            launch.user_endpoint_config.Clear()
            launch.user_endpoint_config.update(dict(map(_value, self.config)))
        if self.router is not None:
            launch.routers[:] = self.router
        for name in ("credentials", "api_port"):
            if (value := getattr(self, name)) is not None:
                setattr(backend, name, value)
        if self.call_mode is not None:
            backend.call_mode = _call_mode(self.call_mode)
        if self.batch is not None:
            backend.ClearField("batch")
            if self.batch:
                backend.batch.endpoint_uuid = self.batch


def with_globus_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command that takes `flags` an option for each field of `GlobusFlags`."""
    return with_flags("flags", GlobusFlags)(command)


def _put_time(launch: resources_pb2.LaunchPolicy, name: str, text: str) -> None:
    time = seconds(text, f"--{name.replace('_', '-')}")
    if time is None:
        launch.ClearField(name)  # type: ignore[arg-type]
        return
    duration: Duration = getattr(launch, name)
    duration.FromMilliseconds(round(time * 1000))


def _value(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise typer.BadParameter(f"--config must look like KEY=VALUE; it is {text!r}")
    try:
        return key, json.loads(value)
    except (json.JSONDecodeError, RecursionError):
        return key, value


def _call_mode(text: str) -> resources_pb2.CallMode.ValueType:
    modes = {name.removeprefix("CALL_MODE_").lower(): value for name, value in resources_pb2.CallMode.items() if value}
    if text not in modes:
        raise typer.BadParameter(f"--call-mode must be one of {', '.join(modes)}; it is {text!r}")
    return modes[text]
