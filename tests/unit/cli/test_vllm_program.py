"""Whether the `vllm` in PATH may be asked to trace."""

import sys
from pathlib import Path

import pytest

from services.cli.vllm_program import can_trace


def script(folder: Path, first: str) -> str:
    file = folder / "vllm"
    file.write_text(f"{first}\nraise SystemExit('not to be run')\n")
    return str(file)


def test_one_whose_python_has_opentelemetry_can(tmp_path: Path) -> None:
    assert can_trace(script(tmp_path, f"#!{sys.executable}"))


@pytest.mark.parametrize("first", [f"#!{sys.executable} -I -S", "#!/no/such/python", "#!/bin/false", "\x7fELF", "#!"])
def test_of_any_other_it_is_not_assumed(tmp_path: Path, first: str) -> None:
    assert not can_trace(script(tmp_path, first))


def test_one_that_is_not_there_cannot(tmp_path: Path) -> None:
    assert not can_trace(str(tmp_path / "vllm"))
