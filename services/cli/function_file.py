"""The file beside the registry with what is registered: `weft endpoints render` reads it, with or without a mesh."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from services.cli.failures import CommandError
from services.core.globus import FunctionVersion

_HEAD = """\
# Written by 'weft functions register': what is registered with Globus Compute, newest first.
# 'weft endpoints render' puts these UUIDs into the 'allowed_functions' of endpoints.
"""

Versions = Mapping[str, tuple[FunctionVersion, ...]]
"""The registrations, newest first, by the resource name of the function."""


def read_file(file: Path) -> dict[str, tuple[FunctionVersion, ...]]:
    """What the file holds; nothing if there is none. Raises `CommandError` if it is damaged."""
    try:
        content = yaml.safe_load(file.read_bytes())
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        raise CommandError(f"{file} is not YAML: {' '.join(str(error).split())}.") from error
    try:
        # Without that key it is somebody else's file, which must not be written over.
        functions = content["functions"] or {} if content else {}
        return {f"functions/{id}": tuple(map(_version, versions or [])) for id, versions in functions.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        message = f"{file} does not hold what 'weft functions register' writes ({what}); correct it, or move it away."
        raise CommandError(message) from error


def write_file(file: Path, functions: Versions) -> None:
    """Writes the file, whole or not at all."""
    content = {"functions": {name.removeprefix("functions/"): _entries(functions[name]) for name in sorted(functions)}}
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    fresh.write_text(_HEAD + yaml.safe_dump(content, sort_keys=False))
    fresh.replace(file)


def iso(seconds: float) -> str:
    """A time since 1970 as people write it, in UTC."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _entries(versions: Iterable[FunctionVersion]) -> list[dict[str, str]]:
    return [
        {
            "uuid": version.uuid,
            "sha256": version.sha256,
            "registered": iso(version.register_time),
            **({"ha_endpoint": version.ha_endpoint_uuid} if version.ha_endpoint_uuid else {}),
        }
        for version in versions
    ]


def _version(entry: Mapping[str, Any]) -> FunctionVersion:
    registered = entry["registered"]
    if not isinstance(registered, datetime.datetime):  # as it is, if written by hand without quotes
        registered = datetime.datetime.fromisoformat(str(registered))
    return FunctionVersion(
        str(entry["uuid"]), str(entry["sha256"]), registered.timestamp(), str(entry.get("ha_endpoint") or "")
    )
