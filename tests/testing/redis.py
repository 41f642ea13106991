"""A private Redis for the tests that need one, on a unix socket in a folder of its own."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testing.parts import need_part
from tests.testing.processes import SOON


class RedisServer:
    """A server that can be started, killed and started again; it keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{folder / 'socket'}"

    def start(self) -> None:
        """Starts it empty, and returns when it answers."""
        path = self._folder / "socket"
        command = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(self._folder)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + SOON
        while not self._answers(path):
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"redis-server does not answer: {(self._folder / 'log').read_text()}")

    def kill(self) -> None:
        """Ends it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self, *, frozen: bool) -> None:
        """Stops it from answering, with its connections open; or lets it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def command(self, *words: str) -> str:
        """What it answers to a command."""
        return _ask(self._folder / "socket", *words)

    def _answers(self, path: Path) -> bool:
        try:
            return _ask(path, "PING") == "+PONG\r\n"
        except OSError:
            return False


def _ask(path: Path, *words: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(f"*{len(words)}\r\n".encode() + b"".join(f"${len(w)}\r\n{w}\r\n".encode() for w in words))
        return connection.recv(1 << 20).decode()


@pytest.fixture
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A Redis that runs until the end of the test."""
    need_part("redis", request.config)
    # Not in pytest's temporary folders: a socket's path has 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="weft-redis-"))
    server = RedisServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)
