"""Leaves nothing behind: `python janitor.py RUN FOLDER`, started before everything else by a run of the tests.

It waits for the end of its standard input, which comes with the end of the run however that ends. Then it kills every
process that carries the run's mark in its environment, and Slurm's keepers of its jobs, removes the users that were
made for the run, and the folder. It needs nothing but Python's own library.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "WEFT_TEST_RUN"
"""The variable that every process of a run has in its environment; its value is the name of the run."""


def processes(run: str, folder: str) -> list[int]:
    """The processes of a run, but for this one."""
    mark = f"{MARK}={run}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            if mark in (process / "environ").read_bytes().split(b"\0") or _job_step(process, folder):
                found.append(int(process.name))
    return [pid for pid in found if pid != os.getpid()]


def _job_step(process: Path, folder: str) -> bool:
    """Whether it is Slurm's keeper of a job of the run: its title hides its environment, the job's output is open."""
    if (process / "comm").read_text().strip() != "slurmstepd":
        return False
    return any(os.readlink(file).startswith(f"{folder}/") for file in (process / "fd").iterdir())


def kill_all(run: str, folder: str, seconds: float = 10.0) -> None:
    """Kills them, and those that they start meanwhile, until there are none."""
    until = time.monotonic() + seconds
    while (pids := processes(run, folder)) and time.monotonic() < until:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def remove_users(run: str) -> None:
    """Removes the users whose names end with the run's."""
    for user in [each.pw_name for each in pwd.getpwall() if each.pw_name.endswith(f"-{run}")]:
        subprocess.run(["userdel", "--force", user], check=False, capture_output=True)


def main(run: str, folder: str) -> None:
    """Waits, then clears away."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(1):
        pass
    kill_all(run, folder)
    if os.geteuid() == 0:
        remove_users(run)
    if not os.environ.get("WEFT_TEST_KEEP"):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
