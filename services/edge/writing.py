"""The configuration as files of YAML."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from services.edge.plain import Plain
from services.edge.sds import KEY_FILE

_HEAD: Final = "# Written by `weft envoy render` from weft.yaml; changes belong there.\n"


class _Dumper(yaml.SafeDumper):
    """Writes everything out: Envoy's YAML has no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Always."""
        return True


def as_yaml(plain: Plain) -> str:
    """Plain data as YAML, keys in the order in which they were put."""
    return _HEAD + yaml.dump(plain, Dumper=_Dumper, sort_keys=False, width=160, allow_unicode=True)


def texts(files: Mapping[str, Plain]) -> dict[str, str]:
    """Each file's text."""
    return {name: as_yaml(plain) for name, plain in files.items()}


def write(files: Mapping[str, str], directory: Path, mode: int = 0o644) -> None:
    """Writes files below a directory, each renamed into place: an Envoy that watches them reads no half of one."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as stream:
            stream.write(text)
        fresh.replace(path)


def difference(files: Mapping[str, str], directory: Path) -> str:
    """What is not in the directory as it would be rendered, as a unified diff; empty if all is."""
    found = {path.relative_to(directory).as_posix() for path in (directory / "sds").glob("*.yaml")} - {KEY_FILE}
    lines: list[str] = []
    for name in sorted({*files, *found}):
        path = directory / name
        there = path.read_text() if path.exists() else ""
        lines += difflib.unified_diff(
            there.splitlines(keepends=True),
            files.get(name, "").splitlines(keepends=True),
            str(path) if there else os.devnull,
            f"{name} (rendered)",
        )
    return "".join(lines)
