"""How a process tells that its service is ready: on an inherited pipe, for its parent, and in a file, for everybody."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from services.runtime.home import run_file


@dataclass(frozen=True, slots=True)
class Ready:
    """What a service tells when it is ready. `metrics` is the address of its `/metrics`, empty if it has none; `tls` is
    the directory of the mesh's certificates, relative to the home, empty if it speaks plainly.
    """

    service: str
    address: str
    pid: int
    metrics: str = ""
    tls: str = ""

    def to_json(self) -> str:
        """The announcement, one line without its end."""
        return json.dumps(
            {
                "service": self.service,
                "address": self.address,
                "pid": self.pid,
                "metrics": self.metrics,
                "tls": self.tls,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Reads an announcement. Raises ValueError if it is none."""
        fields = json.loads(text)
        try:
            return cls(
                str(fields["service"]),
                str(fields["address"]),
                int(fields["pid"]),
                str(fields.get("metrics", "")),
                str(fields.get("tls", "")),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an announcement of readiness: {text!r}") from error


class Announcer:
    """Announces the services of this process, and takes the announcements back on leaving."""

    def __init__(self, home: Path, *, ready_fd: int | None = None, metrics: str = "", tls: str = "") -> None:
        self._home = home
        self._ready_fd = ready_fd
        self._metrics = metrics
        self._tls = tls
        self._files: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.withdraw()

    def ready(self, service: str, address: str) -> None:
        """A service of this process is ready, at this address."""
        announcement = Ready(service, address, os.getpid(), self._metrics, self._tls).to_json() + "\n"
        file = run_file(self._home, service)
        file.parent.mkdir(parents=True, exist_ok=True)
        # Renamed into place, so that nobody reads half of it.
        fresh = file.with_suffix(f".{os.getpid()}")
        fresh.write_text(announcement)
        fresh.replace(file)
        self._files.append(file)
        if self._ready_fd is not None:
            os.write(self._ready_fd, announcement.encode())
            os.close(self._ready_fd)
            self._ready_fd = None

    def withdraw(self) -> None:
        """Removes what was announced, unless a successor has announced itself since."""
        for file in self._files:
            known = read_ready(file)
            if known is not None and known.pid == os.getpid():
                file.unlink(missing_ok=True)
        self._files.clear()


def read_ready(file: Path) -> Ready | None:
    """The announcement in a file, None if there is none."""
    try:
        return Ready.from_json(file.read_bytes())
    except (OSError, ValueError):
        return None


def running(home: Path, service: str) -> Ready | None:
    """The service's announcement, if the process that made it still lives."""
    known = read_ready(run_file(home, service))
    if known is None:
        return None
    try:
        os.kill(known.pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it lives, and is somebody else's
    return known
