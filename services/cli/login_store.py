"""Where a person's login is kept: one file in their configuration folder, for them alone."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec


class Login(msgspec.Struct, frozen=True):
    """What a login gave. `expires_at` is the access token's end, in seconds since 1970."""

    client_id: str
    scope: str
    access_token: str
    refresh_token: str
    expires_at: float

    def __repr__(self) -> str:
        return f"Login(client_id={self.client_id!r}, scope={self.scope!r})"


class LoginStore:
    """Reads and writes the login. Two commands at once never refresh it twice: whoever does holds `locked`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "login.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps others from changing the login; the kernel gives the lock back however its holder ends."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self._folder / "login.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def read(self) -> Login | None:
        """The login; None if there is none, or nothing that can be read as one."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Login)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def write(self, login: Login) -> None:
        """Replaces the login, whole or not at all. Never readable by others, not for a moment."""
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=".login-")  # with mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(login))
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self._file)
        except BaseException:
            os.unlink(name)
            raise

    def remove(self) -> None:
        """Forgets the login."""
        self._file.unlink(missing_ok=True)


def login_folder(environ: Mapping[str, str]) -> Path:
    """`$XDG_CONFIG_HOME/weft`, or `~/.config/weft`: a person's, whatever WEFT_HOME says."""
    return Path(environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "weft"
