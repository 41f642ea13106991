"""Flags that several commands share: a dataclass of them, whose fields become options of each command."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final, get_type_hints

import typer

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")


def time_option(help: str) -> Any:
    """An option that takes a time, or 'none'."""
    return typer.Option(metavar="TIME", help=f"{help} '90s', '30m', '2h', '7d'; 'none' leaves it out.")


def seconds(text: str, flag: str) -> float | None:
    """What such an option says; None for 'none'. Raises `typer.BadParameter`."""
    if text == "none":
        return None
    match = _TIME.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{flag} must be a time, '90s', '30m', '2h' or '7d', or 'none'; it is {text!r}")
    return float(match[1]) * _UNITS[match[2]]


def with_flags(argument: str, kind: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command that takes `argument`, a dataclass `kind`, an option for each of its fields."""
    hints = get_type_hints(kind, include_extras=True)
    names = [field.name for field in fields(kind)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            flags = kind(**{name: given.pop(name) for name in names if name in given})
            command(**given, **{argument: flags})

        parameters = inspect.signature(command, eval_str=True).parameters
        own = [parameter for name, parameter in parameters.items() if name != argument]
        keyword = inspect.Parameter.KEYWORD_ONLY
        added = [inspect.Parameter(name, keyword, default=None, annotation=hints[name]) for name in names]
        run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *added)}
        return run

    return decorate
