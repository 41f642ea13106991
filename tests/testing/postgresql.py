"""A private PostgreSQL server for the tests that need one, on a unix socket in a folder of its own."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.testing.parts import need_part, postgresql_programs

# What makes a server durable only slows one that lives for a test run.
SETTINGS = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c listen_addresses= -c max_connections=200"


@dataclass(frozen=True, slots=True)
class Postgresql:
    """A running server. A socket rather than a port: no other process can have taken it."""

    programs: Path
    folder: Path

    def create_database(self, name: str) -> str:
        """Makes an empty database and returns its URL for SQLAlchemy."""
        self.run("createdb", "-h", str(self.folder), "-U", "weft", name)
        return f"postgresql+asyncpg://weft@/{name}?host={self.folder}"

    def start(self) -> None:
        """Starts the server and returns when it takes connections."""
        options = f"-k {self.folder} {SETTINGS}"
        data, log = str(self.folder / "data"), str(self.folder / "log")
        self.run("pg_ctl", "start", "--wait", "--silent", "-D", data, "-l", log, "-o", options)

    def stop(self) -> None:
        """Stops the server at once, cutting its connections; `start` brings it back with its data."""
        self.run("pg_ctl", "stop", "--wait", "--silent", "--mode=fast", "-D", str(self.folder / "data"))

    def run(self, program: str, *arguments: str) -> None:
        """Runs one of PostgreSQL's programs as an unprivileged user: the server refuses to be root."""
        command = [str(self.programs / program), *arguments]
        # The log is a file: a pipe would stay open in the server, and the wait for its end would be one for ever.
        with (self.folder / "programs.log").open("a+b") as log:
            finished = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=_user(), cwd=self.folder, check=False
            )
            if finished.returncode:
                log.seek(0)
                raise RuntimeError(f"{program} failed: {log.read().decode(errors='replace')}")


@pytest.fixture(scope="session")
def postgresql(request: pytest.FixtureRequest) -> Iterator[Postgresql]:
    """A PostgreSQL server that runs until the end of the tests."""
    need_part("postgresql", request.config)
    programs = postgresql_programs()
    assert programs is not None
    # Not in pytest's temporary folders: only their owner may enter those, and a socket's path has 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="weft-pg-"))
    server = Postgresql(programs, folder)
    try:
        user = _user()
        if user is not None:
            shutil.chown(folder, user)
        server.run("initdb", "-D", str(folder / "data"), "-U", "weft", "--auth=trust", "--encoding=UTF8", "--no-sync")
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


_numbers = count(1)


@pytest.fixture
def postgresql_url(postgresql: Postgresql) -> str:
    """The URL of an empty database, one for each test."""
    return postgresql.create_database(f"test_{next(_numbers)}")


def _user() -> str | None:
    """Who runs PostgreSQL's programs: ourselves, unless that is root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as")
