"""Puts a rendered endpoint into a folder, without harm to what the agent keeps there."""

from __future__ import annotations

import os
from pathlib import Path

from endpoints.job import LAUNCH_SCRIPT
from endpoints.mistakes import EndpointFilesError
from endpoints.render import Rendered

REGISTERED = "endpoint.json"
"""What the agent writes when Globus knows the endpoint: without it, it would become another one."""


def write(rendered: Rendered, folder: Path, *, force: bool = False) -> list[Path]:
    """Writes the files that are not as they should be, and says which. Files that are not ours stay.

    Raises EndpointFilesError if the endpoint is registered and something would change, unless `force`; and where one
    may not write.
    """
    changed = [name for name, text in rendered.files.items() if _present(folder / name) != text]
    if changed and (folder / REGISTERED).exists() and not force:
        raise EndpointFilesError(
            f"{folder} is a registered endpoint, and would change in {', '.join(changed)}; give --force to change it "
            "(it keeps its UUID; restart it afterwards), or another --name."
        )
    if changed and any((folder / name).exists() for name in changed) and not force and not _ours(folder):
        raise EndpointFilesError(
            f"{folder} has files that Weft did not write ({', '.join(n for n in changed if (folder / n).exists())}); "
            "give --force to replace them, or another --output."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        for name in changed:
            _replace(folder / name, rendered.files[name], 0o755 if name == LAUNCH_SCRIPT else 0o644)
    except OSError as error:
        raise EndpointFilesError(
            f"Cannot write {error.filename or folder}: {error.strerror}; give another --output."
        ) from error
    return [folder / name for name in changed]


def _present(path: Path) -> str | None:
    try:
        return path.read_text()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    except OSError as error:
        raise EndpointFilesError(f"Cannot read {path}: {error.strerror}; give another --output.") from error


def _ours(folder: Path) -> bool:
    """Whether what is there was rendered by us, so that rendering it anew is what is wanted."""
    return "weft endpoints render" in (_present(folder / "config.yaml") or "")


def _replace(path: Path, text: str, mode: int) -> None:
    """Whole or not at all: an agent that starts in this moment reads the old file or the new one."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.chmod(mode)
    os.replace(new, path)
