"""A worker runs inside vLLM's environment, so `weft worker` starts with the base dependencies alone.

In which versions is for vLLM's environment to say, so the ends of what we allow are tried beside those of the lock.
"""

import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def run(*command: str | Path) -> str:
    # Not in the checkout, or Python would import its packages instead of the installed ones.
    finished = subprocess.run([str(word) for word in command], cwd="/", capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def locked() -> list[str]:
    # Without the hashes: with them, pip would want one for the wheel too.
    return re.findall(r"^[\w.\-]+==.*?(?= *\\?$)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)


def lowest() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [re.sub(r">=([\d.]+).*", r"==\1", dependency) for dependency in project["dependencies"]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout's wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("weft-*.whl")
    return wheel


@pytest.fixture(scope="module", params=["locked", "lowest", "protobuf 7"])
def base_environment(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel and what it depends on."""
    versions = {"locked": locked(), "lowest": lowest(), "protobuf 7": ["protobuf>=7"]}[request.param]
    folder = tmp_path_factory.mktemp("base")
    (folder / "constraints.txt").write_text("\n".join(versions))
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    run(*PIP, "--python", environment / "bin/python", "install", "--constraint", folder / "constraints.txt", wheel)
    return environment


def test_only_base_dependencies(base_environment: Path) -> None:
    installed = {path.name.split("-")[0].lower() for path in base_environment.glob("lib/*/site-packages/*.dist-info")}
    assert {"weft", "grpcio", "protobuf", "aiohttp", "msgspec"} <= installed
    assert not installed & {"typer", "rich", "structlog", "starlette", "uvicorn", "sqlalchemy", "pyyaml", "uvloop"}


def test_worker_starts(base_environment: Path) -> None:
    assert "--vllm-url" in run(base_environment / "bin/weft", "worker", "--help")


def test_stubs_load(base_environment: Path) -> None:
    run(base_environment / "bin/python", "-W", "error", "-c", "from weft.session.v1 import session_pb2_grpc")


def test_client_loads(base_environment: Path) -> None:
    """With the base alone, and without what it uses where it is installed."""
    program = "import weft.client; weft.client.Client('127.0.0.1:1').close(); print(weft.client.trace.trace_headers())"
    assert run(base_environment / "bin/python", "-W", "error", "-c", program) == "()\n"


def test_types_are_in_the_wheel(base_environment: Path) -> None:
    (packages,) = base_environment.glob("lib/*/site-packages")
    for name in ("services/py.typed", "compute_functions/py.typed", "weft/session/py.typed", "weft/client/py.typed"):
        assert (packages / name).is_file(), name
