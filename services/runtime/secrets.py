"""Keeps secrets out of what is shown: by the names of settings, and by the shape of URLs."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "(hidden)"
_SECRET_NAME = re.compile(r"(^|_)(key|token|secret|password|credential)$")
_URL_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):[^/@\s]+@")


def hide_secrets(value: Any, name: str = "") -> Any:
    """The same data without its secrets. A file's path (`…_key_file`) is no secret."""
    if isinstance(value, dict):
        return {key: hide_secrets(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [hide_secrets(inner, name) for inner in value]
    if isinstance(value, str) and value:
        return HIDDEN if _SECRET_NAME.search(name) else _URL_PASSWORD.sub(rf"\1:{HIDDEN}@", value)
    return value
