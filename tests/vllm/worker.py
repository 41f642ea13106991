"""A worker started by hand, inside vLLM's own environment: there it has nothing but what vLLM brings."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.vllm.mesh import Mesh
from tests.vllm.processes import Process

CHECKOUT = Path(__file__).resolve().parents[2]


def install_weft(vllm_python: Path, folder: Path) -> Path:
    """Build Weft's wheel and install it into `folder`, without its dependencies and outside vLLM's environment,
    which is shared and stays as it is. Returns the folder to put on the path of `vllm_python`.
    """
    wheels, site = folder / "wheels", folder / "site"
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(wheels)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True)
    (wheel,) = wheels.glob("weft-*.whl")
    install = [str(vllm_python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    return site


def start_worker(vllm_python: Path, site: Path, mesh: Mesh, log: Path, options: Sequence[str]) -> Process:
    """`weft worker` of the wheel in `site`, run by vLLM's Python, dialling the router of `mesh`."""
    command = [str(vllm_python), "-m", "services.cli", "worker", "--router", mesh.router, *options]
    return Process(command, log, {**mesh.environment, "PYTHONPATH": str(site)})
