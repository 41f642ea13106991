"""The flags of `weft endpoints create` and `update` that are about Globus Compute."""

from __future__ import annotations

import functools
import inspect
import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Final, get_type_hints

import typer
from google.protobuf.duration_pb2 import Duration
from weft.registry.v1 import resources_pb2

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")


def _time(help: str) -> Any:
    return typer.Option(metavar="TIME", help=f"{help} '90s', '30m', '2h', '7d'; 'none' leaves it out.")


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
    idle_time: Annotated[str | None, _time("How long a worker may be without calls before it is stopped:")] = None
    keep_warm: Annotated[
        bool | None, typer.Option("--keep-warm/--no-keep-warm", help="Leave the last worker until its job ends.")
    ] = None
    walltime: Annotated[str | None, _time("The walltime of a job, where its scheduler does not tell it:")] = None
    queue_time: Annotated[str | None, _time("How long a job may wait in the queue before it is given up:")] = None
    replace_before: Annotated[str | None, _time("How long before a job's end the next is started:")] = None
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
    hints = get_type_hints(GlobusFlags, include_extras=True)
    names = [field.name for field in fields(GlobusFlags)]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(**{name: given.pop(name) for name in list(given) if name not in names}, flags=GlobusFlags(**given))

    parameters = inspect.signature(command, eval_str=True).parameters
    own = [parameter for name, parameter in parameters.items() if name != "flags"]
    kind = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(name, kind, default=None, annotation=hints[name]) for name in names]
    run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *added)}
    return run


def _put_time(launch: resources_pb2.LaunchPolicy, name: str, text: str) -> None:
    if text == "none":
        launch.ClearField(name)  # type: ignore[arg-type]
        return
    match = _TIME.fullmatch(text)
    if match is None:
        flag = name.replace("_", "-")
        raise typer.BadParameter(f"--{flag} must be a time, '90s', '30m', '2h' or '7d', or 'none'; it is {text!r}")
    duration: Duration = getattr(launch, name)
    duration.FromMilliseconds(round(float(match[1]) * _UNITS[match[2]] * 1000))


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
