"""A worker runs inside vLLM's environment, so `weft worker` starts with the base dependencies alone."""

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path) -> str:
    # Not in the checkout, or Python would import its packages instead of the installed ones.
    finished = subprocess.run([str(word) for word in command], cwd="/", capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def base_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with this checkout's wheel and what it depends on, in the versions of the lock."""
    folder = tmp_path_factory.mktemp("base")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("weft-*.whl")

    # As constraints, so without the hashes: with those, pip would want one for the wheel too.
    pins = re.findall(r"^[\w.\-]+==.*?(?= *\\?$)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pins))

    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    run(*pip, "--python", environment / "bin" / "python", "install", "--constraint", constraints, wheel)
    return environment


def test_only_base_dependencies(base_environment: Path) -> None:
    installed = {path.name.split("-")[0].lower() for path in base_environment.glob("lib/*/site-packages/*.dist-info")}
    assert {"weft", "grpcio", "protobuf", "aiohttp", "msgspec"} <= installed
    assert not installed & {"typer", "rich", "structlog", "starlette", "uvicorn", "sqlalchemy", "pyyaml", "uvloop"}


def test_worker_starts(base_environment: Path) -> None:
    assert "--vllm-url" in run(base_environment / "bin" / "weft", "worker", "--help")


def test_stubs_and_types_are_in_the_wheel(base_environment: Path) -> None:
    (packages,) = base_environment.glob("lib/*/site-packages")
    for name in ("services/py.typed", "compute_functions/py.typed", "weft/session/py.typed"):
        assert (packages / name).is_file(), name
    run(base_environment / "bin" / "python", "-c", "from weft.session.v1 import session_pb2_grpc")
