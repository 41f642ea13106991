"""Python environments for tests, built once, outside the checkout, from a lock.

An environment lies in the cache of this machine under a name with a hash of what it is made from, so that a change of
that makes another one. The file `complete` is written last: a build that was interrupted is never taken for whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path


class BuildError(Exception):
    """What went wrong, in one sentence that says what to do."""


def progress(line: str) -> None:
    """Tells people something; standard output is for the answer."""
    print(line, file=sys.stderr, flush=True)


def cache() -> Path:
    """Where environments lie. Root's can be read by everybody, since tests run things there as other users."""
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named) / "weft"
    return Path("/var/cache/weft") if os.geteuid() == 0 else Path.home() / ".cache" / "weft"


def interpreter(name: str) -> str:
    """The program of that name that an environment may be made from. Raises `BuildError` if there is none.

    Root takes none that only root can read, as those are that lie in its home.
    """
    for found in (shutil.which(name), f"/usr/bin/{name}"):
        if found and Path(found).exists() and (os.geteuid() != 0 or all_may_run(Path(found))):
            return found
    raise BuildError(f"{name} is not on the PATH, or not for every user to run: install it.")


def all_may_run(program: Path) -> bool:
    """Whether every user of this machine may run it."""
    real = program.resolve()
    return all(path.stat().st_mode & stat.S_IXOTH for path in (real, *real.parents))


def run(command: Sequence[str], log: Path, failed: str) -> None:
    """Runs a command. Raises `BuildError` with the sentence `failed` and the end of its output."""
    with log.open("ab") as output:
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise BuildError(f"{tail}\n{failed} (full log: {log})")


def make_environment(python_name: str, lock: Path, folder: Path, log: Path, hint: str = "") -> Path:
    """Makes a virtual environment with what the lock names, and says how far it is. Returns its Python."""
    program = interpreter(python_name)
    run([program, "-m", "venv", str(folder)], log, f"{program} could not make a virtual environment")
    python = folder / "bin" / "python"
    packages = sum(not line.startswith("#") for line in lock.read_text().splitlines())
    pip = [str(python), "-m", "pip", "install", "--no-deps", "--no-input", "--progress-bar=off", "-r", str(lock)]
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
        raise BuildError("\n".join(errors) + f"\npip could not install {lock.name}{hint} (full log: {log}).")
    return python


def built(name: str, sources: Sequence[Path], build: Callable[[Path], None]) -> Path:
    """The environment `name` that is made from these files: built now, unless it is there."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    folder = cache() / f"{name}-{digest.hexdigest()[:12]}"
    started = time.monotonic()
    with _only_builder(folder):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            os.umask(0o022)
            folder.mkdir()
            build(folder)
            # Some programs write files for their owner alone, whatever the umask.
            subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
            (folder / "complete").touch()
            progress(f"Built in {time.monotonic() - started:.0f} s.")
    return folder


@contextlib.contextmanager
def _only_builder(folder: Path) -> Iterator[None]:
    """Holds the lock of `folder`: two builds at once would install over each other."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("Another build is under way: waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
