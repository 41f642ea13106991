"""Runs a command that gets SIGTERM when the process that started it dies, however that dies.

Only Linux can do that (prctl(2), PR_SET_PDEATHSIG). This module runs as a program of its own between the parent and the
command, because the usual place, `preexec_fn`, runs Python in a fork of a process with gRPC's threads, which crashes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def tied(command: Sequence[str]) -> list[str]:
    """The command, tied to the life of this process. Where the system cannot do that, the command as it is."""
    if sys.platform != "linux":
        return list(command)
    # -I and -S: no site-packages and no environment, for a start within some ten milliseconds.
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def _main(parent: int, command: list[str]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died in between
        sys.exit(1)
    try:
        os.execvp(command[0], command)  # noqa: S606 a shell is what this is not
    except OSError as error:
        sys.exit(f"Cannot run {command[0]}: {error.strerror}.")


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2:])
