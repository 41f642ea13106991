"""A test that needs a missing part is left out and named, and under WEFT_ALL_PARTS fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TEST = """
from tests.testing.parts import requires_part

@requires_part("vllm")
def test_of_the_missing(): ...

def test_of_nothing_special(): ...
"""


def run_pytest(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_parts.py").write_text(TEST)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("WEFT_", "PYTEST_"))}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.testing.parts",
        "-p",
        "no:cacheprovider",
        "test_parts.py",
    ]
    return subprocess.run(command, cwd=folder, env=inherited | environment, capture_output=True, text=True, check=False)


def test_left_out_and_named(tmp_path: Path) -> None:
    run = run_pytest(tmp_path)
    assert run.returncode == pytest.ExitCode.OK, run.stdout
    assert "vllm: 1 left out; to have them: make test-vllm" in run.stdout
    assert run.stdout.splitlines()[-1].startswith("1 passed, 1 skipped in ")


def test_failure_when_all_are_asked_for(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, WEFT_ALL_PARTS="1")
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert "vllm is not installed" in run.stdout


def test_run_when_the_part_is_there(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, WEFT_ALL_PARTS="1", WEFT_VLLM_PYTHON=sys.executable)
    assert run.returncode == pytest.ExitCode.OK
    assert run.stdout.splitlines()[-1].startswith("2 passed in ")
