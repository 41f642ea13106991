"""What the kernel knows of a process: its CPU time, its memory, its children. Linux only."""

from __future__ import annotations

import time
from pathlib import Path

_PROC = Path("/proc")


def cpu_ns(pid: int) -> int:
    """CPU time, user and system, of all threads that the process has and had, in nanoseconds.

    It reads the process's CPU-time clock, whose id is made as clock_getcpuclockid(3) makes it: /proc/PID/stat counts in
    steps of 10 ms, and the times in /proc/PID/task forget the threads that have ended. Raises ProcessLookupError if it
    is gone.
    """
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError as error:
        raise ProcessLookupError(f"process {pid}, which is measured, has ended") from error


def own_memory(pid: int) -> int:
    """Resident anonymous memory, in bytes.

    It counts neither programs nor libraries: what of them is the process's share (PSS) changes when another process
    that uses them starts or ends.
    """
    lines = (_PROC / str(pid) / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024


def command(pid: int) -> list[str]:
    """The command line; empty if the process has ended."""
    try:
        return (_PROC / str(pid) / "cmdline").read_text().split("\0")
    except OSError:
        return []


def children(parent: int) -> list[int]:
    """The processes that it has started and that still run."""
    return [int(entry.name) for entry in _PROC.glob("[0-9]*") if _parent(entry) == parent]


def _parent(entry: Path) -> int:
    try:
        # The name of the program, in brackets, may itself hold spaces and brackets.
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
