"""Where things lie in WEFT_HOME, and the lock that keeps two meshes out of one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class HomeInUseError(Exception):
    """Another process works in this home; the message says which."""


def find_home(environ: Mapping[str, str]) -> Path:
    """The folder that holds a mesh's state: `$WEFT_HOME`, or `~/.weft`."""
    return Path(environ.get("WEFT_HOME") or "~/.weft").expanduser()


def run_file(home: Path, service: str) -> Path:
    """Where a running service says its address."""
    return home / "run" / f"{service}.json"


def log_file(home: Path, service: str) -> Path:
    """Where a supervised service's log is kept."""
    return home / "log" / f"{service}.log"


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Holds the home for one `weft up`. Raises `HomeInUseError` if another has it.

    The kernel gives the lock back when the holder dies, however it dies; the pid in the file is for people.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(home / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode().strip() or "unknown"
            raise HomeInUseError(
                f"A 'weft up' is running in {home} already (pid {holder}); stop it, or set WEFT_HOME to another folder."
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)
