"""Reads fixture files: Django's JSON, a list of entries, each with the `model` that tells its kind."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.cli.first.fields import Fields, Problems
from services.runtime.config_keys import nearest

KINDS: Final = {
    "resource_server.endpoint": "endpoint",
    "resource_server.federatedendpoint": "federated",
    "resource_server.cluster": "cluster",
    "resource_server_async.endpoint": "endpoint",
    "resource_server_async.federatedendpoint": "federated",
    "resource_server_async.cluster": "cluster",
}
"""What an entry is, by its `model`: the older application's name, and the newer's."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a file: `kind` is a value of `KINDS`."""

    kind: str
    fields: Fields


def read_entries(files: Iterable[Path], problems: Problems) -> list[Entry]:
    """The entries of all files, in order. What is wrong is added to the problems."""
    return [entry for file in files for entry in _entries(file, problems)]


def _entries(file: Path, problems: Problems) -> Iterator[Entry]:
    try:
        content = json.loads(file.read_text("utf-8-sig"), object_pairs_hook=_object)
    except OSError as error:
        return problems.add(str(file), f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        return problems.add(str(file), f"is not UTF-8: byte {error.start} cannot be read")
    except json.JSONDecodeError as error:
        return problems.add(str(file), f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}")
    except _RepeatedKeyError as error:
        return problems.add(str(file), f"the key '{error}' stands twice in one object")
    except RecursionError:
        return problems.add(str(file), "is nested too deep")
    if not isinstance(content, list):
        return problems.add(str(file), "must hold a list of entries, as Django's fixtures do")
    for number, value in enumerate(content, 1):
        if (entry := _entry(f"{file}: entry {number}", value, problems)) is not None:
            yield entry
    return None


def _entry(where: str, value: Any, problems: Problems) -> Entry | None:
    if not isinstance(value, dict):
        problems.add(where, "must be an object with 'model' and 'fields'")
        return None
    top = Fields(where, value, problems)
    model, fields = top.text("model", required=True), top.raw("fields")
    top.raw("pk")  # Django's own number of the row; nothing refers to it
    top.finish()
    kind = KINDS.get(model.lower())
    if kind is None:
        if model:
            top.complain("model", f"is '{model[:100]}', which is no kind that can be imported; {nearest(model, KINDS)}")
        return None
    if not isinstance(fields, dict):
        top.complain("fields", "must be an object" if "fields" in top else "is missing")
        return None
    return Entry(kind, Fields(where, fields, problems))


class _RepeatedKeyError(Exception):
    """A key stands twice in an object, and Python would drop the first silently."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _RepeatedKeyError(key)
        found[key] = value
    return found
