"""Who descends from a process, and what they listen on, from /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

_LISTENING = "0A"


def descendants(pid: int) -> list[int]:
    """The processes that it has started, and those that they have, while their parents live."""
    children = [
        int(child) for thread in Path(f"/proc/{pid}/task").glob("*/children") for child in _read(thread).split()
    ]
    return [*children, *(each for child in children for each in descendants(child))]


def is_alive(pid: int) -> bool:
    """Whether the process is there, and not a mere entry that nobody has waited for."""
    return _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1] not in ([], ["Z"])


def listening_ports(pids: list[int]) -> set[int]:
    """The TCP ports on which these processes listen."""
    inodes = {
        target.removeprefix("socket:[").removesuffix("]")
        for pid in pids
        for target in _descriptors(pid)
        if target.startswith("socket:[")
    }
    rows = [row.split() for table in ("tcp", "tcp6") for row in _read(Path(f"/proc/net/{table}")).splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == _LISTENING and row[9] in inodes}


def is_open(port: int) -> bool:
    """Whether somebody listens there on loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _descriptors(pid: int) -> list[str]:
    targets = []
    with contextlib.suppress(OSError):
        for descriptor in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                targets.append(os.readlink(descriptor.path))
    return targets


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
