"""The agent's exceptions, as (the way to the field, what is wrong)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import globus_compute_endpoint.engines as engines
import parsl.launchers
import parsl.providers
from globus_compute_endpoint.endpoint.config import CoreEndpointConfig, UserEndpointConfig
from globus_compute_endpoint.engines.base import GlobusComputeEngineBase
from parsl.executors.high_throughput.executor import HighThroughputExecutor
from pydantic import ValidationError

Fault = tuple[tuple[str, ...], str]


def faults_of(error: BaseException) -> list[Fault]:
    """What an exception of a loader tells, following its causes to the one that knows most."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ValidationError):
            return [(tuple(map(str, e["loc"])), _plain(str(e["msg"]))) for e in cause.errors()]
        cause = cause.__cause__
    text = _plain(str(error))
    unknown = re.search(r"unexpected keyword argument '(\w+)'", text)
    return [((unknown[1],) if unknown else (), text)]


def core_keys() -> set[str]:
    """What `config.yaml` may hold."""
    return _parameters(CoreEndpointConfig)


def user_keys() -> set[str]:
    """What a rendered template may hold, at its top."""
    return _parameters(UserEndpointConfig)


def unknown_in_user_config(config: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """Each key of a rendered template that nothing would take, with the keys that are known in its place."""
    yield from _unknown(config, user_keys(), ())
    engine = config.get("engine")
    if not isinstance(engine, dict):
        return
    kind = getattr(engines, str(engine.get("type")), None)
    if kind is None:
        return
    of_engine = _parameters(kind) | {"type"}
    if issubclass(kind, engines.GlobusComputeEngine):
        of_engine |= _parameters(HighThroughputExecutor) | _parameters(GlobusComputeEngineBase)
    yield from _unknown(engine, of_engine, ("engine",))
    provider = engine.get("provider")
    if isinstance(provider, dict):
        of_provider = _parameters(getattr(parsl.providers, str(provider.get("type")), None)) | {"type"}
        if of_provider != {"type"}:
            yield from _unknown(provider, of_provider, ("engine", "provider"))
        launcher = provider.get("launcher")
        if isinstance(launcher, dict):
            of_launcher = _parameters(getattr(parsl.launchers, str(launcher.get("type")), None)) | {"type"}
            if of_launcher != {"type"}:
                yield from _unknown(launcher, of_launcher, ("engine", "provider", "launcher"))


def _unknown(tree: dict[str, Any], known: set[str], way: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    for key in tree:
        if key not in known:
            yield (*way, str(key)), known


def _parameters(kind: Any) -> set[str]:
    """The keyword parameters of a class and of those that it hands the rest on to."""
    found: set[str] = set()
    for base in inspect.getmro(kind) if inspect.isclass(kind) else ():
        if base is object or "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        found |= {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found - {"self"}


def _plain(text: str) -> str:
    text = " ".join(text.split())
    return text.removeprefix("Value error, ").rstrip(".")
