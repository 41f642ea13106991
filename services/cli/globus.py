"""Opens what commands need of Globus Compute, and tells its errors in the words of commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from services.cli.failures import CommandError
from services.runtime.config import Config

NO_SDK: Final = "This needs the SDK of Globus Compute: run \"pip install 'weft[globus]'\"."

if TYPE_CHECKING:
    from services.globus.control import Control
    from services.globus.credentials import Named


def open_control(config: Config, credentials: str = "") -> Control:
    """The control of Globus Compute with the launcher's credentials of that name; empty means `default`. Blocks.

    Raises `CommandError` for a name that is not known or without the SDK, and `GlobusError`.
    """
    # Imported here: the SDK takes half a second, and an installation may be without it.
    try:
        from services.globus.control import Control
        from services.globus.credentials import open_client
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("globus"):
            raise
        raise CommandError(NO_SDK) from error
    return Control(open_client(named(config, credentials), may_ask=sys.stdin.isatty()))


def named(config: Config, credentials: str) -> Named:
    """The launcher's credentials of that name. Raises `CommandError` for a name that is not known."""
    from services.globus.credentials import Default

    name = credentials or "default"
    known = getattr(config.sections.get("launcher"), "credentials", {})
    if name in known:
        found: Named = known[name]
        return found
    if name == "default":
        return Default()
    names = ", ".join(sorted({"default", *known}))
    raise CommandError(f"'launcher.credentials' of the configuration has no {name!r}; it has {names}.")


@contextmanager
def told() -> Iterator[None]:
    """Turns errors of Globus Compute into `CommandError`."""
    try:
        yield
    except Exception as error:
        # Looked up, not imported: without the SDK there is no such error.
        errors = sys.modules.get("services.globus.errors")
        if errors is not None and isinstance(error, errors.GlobusError):
            raise CommandError(f"{error.sentence} {error.remedy}") from error
        raise
