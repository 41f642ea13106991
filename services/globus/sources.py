"""The sources of Weft's own functions, read from their files: they are sent as text, and never imported here."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

MODULES: Final[Mapping[str, str]] = {
    "functions/start-worker": "start_worker",
    "functions/inference": "inference",
    "functions/batch": "batch",
    "functions/queue-status": "queue_status",
    "functions/probe": "probe",
}
"""The module of each function, and the name of the Python function in it."""


@dataclass(frozen=True, slots=True)
class Source:
    """The text of one function's module; `name` is the resource's, `function` the Python function's."""

    name: str
    function: str
    text: str

    @property
    def sha256(self) -> str:
        """The SHA-256 of the text, in hex."""
        return sha256_of(self.text)

    @property
    def description(self) -> str:
        """The module's docstring."""
        return ast.get_docstring(ast.parse(self.text)) or ""


def sha256_of(text: str) -> str:
    """The SHA-256 of a source, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_source(name: str, folder: Traversable | None = None) -> Source:
    """The source of one of `MODULES`. Raises KeyError for another name, and OSError if its file is not there."""
    module = MODULES[name]
    place = folder if folder is not None else resources.files("compute_functions")
    return Source(name, module, (place / f"{module}.py").read_text(encoding="utf-8"))
