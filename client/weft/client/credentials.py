"""Who calls: an API key, or a token of Globus Auth. (By a certificate: `MutualTls`.)"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Final

import grpc
from weft.client.errors import NotAllowed

KEY_VARIABLE: Final = "WEFT_KEY"

_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")

_KEPT: Final = 240.0
"""Seconds for which a token is used: `weft token` gives none that lives less than 300."""


class Credential(ABC):
    """Tells a token for each attempt of each call."""

    @abstractmethod
    def token(self) -> str:
        """The token; may block. Raises `NotAllowed` if there is none."""

    async def token_async(self) -> str:
        """The same, without blocking the loop."""
        return await asyncio.to_thread(self.token)


class ApiKey(Credential):
    """An API key.

    ApiKey("weft-…")
    ApiKey.from_file("/etc/weft/key")      # read for every call: a new key needs no restart
    ApiKey.from_environment()              # WEFT_KEY
    """

    def __init__(self, key: str) -> None:
        _checked(key, "the key that was given")
        self._read: Callable[[], str] = lambda: key

    @classmethod
    def from_file(cls, file: str | os.PathLike[str]) -> ApiKey:
        """A key that stands in a file. Raises `NotAllowed` if it does not."""
        key = cls(_content(Path(file)))
        key._read = lambda: _content(Path(file))
        return key

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> ApiKey:
        """The key in WEFT_KEY. Raises `NotAllowed` if there is none."""
        return cls(_checked(environ.get(KEY_VARIABLE, ""), f"the variable {KEY_VARIABLE}"))

    def token(self) -> str:
        """See `Credential.token`."""
        return _checked(self._read(), "the key's file")

    async def token_async(self) -> str:
        """At once: reading a small file takes less than a thread does."""
        return self.token()

    def __repr__(self) -> str:
        return "ApiKey(…)"


class GlobusLogin(Credential):
    """A token of Globus Auth: of whoever has run `weft login` on this machine, or as `fetch` gives it.

        GlobusLogin()                                           # by the command `weft token`
        GlobusLogin(authorizer.get_authorization_header)        # any authorizer of the globus-sdk

    `fetch` is called from any thread, again every few minutes, and may block.
    """

    def __init__(
        self,
        fetch: Callable[[], str] | None = None,
        *,
        kept: float = _KEPT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch or _weft_token
        self._clock = clock
        self._lock = Lock()
        self._token = ""
        self._kept, self._until = kept, float("-inf")

    def token(self) -> str:
        """See `Credential.token`."""
        with self._lock:
            if self._clock() >= self._until:
                self._token = _checked(self._fetch().removeprefix("Bearer "), "the login")
                self._until = self._clock() + self._kept
            return self._token

    async def token_async(self) -> str:
        """At once while the token is fresh."""
        return self._token if self._clock() < self._until else await asyncio.to_thread(self.token)

    def __repr__(self) -> str:
        return "GlobusLogin(…)"


def _weft_token() -> str:
    weft = shutil.which("weft") or str(Path(sys.executable).with_name("weft"))  # an environment need not be active
    try:
        done = subprocess.run([weft, "token"], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _refused(f"'weft token' did not run: {error}.") from None
    if done.returncode:
        raise _refused(f"'weft token' gave no token: {done.stderr.strip()}")
    return done.stdout


def _content(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise _refused(f"{file} holds no key: {error}.") from None


def _checked(token: str, where: str) -> str:
    """The token without the white space around it. gRPC would refuse one with a line break within, and quote it."""
    token = token.strip()
    if not _PRINTABLE.fullmatch(token):
        raise _refused(f"There is no credential in {where}, or it is not one line of printable ASCII.")
    return token


def _refused(message: str) -> NotAllowed:
    return NotAllowed("CREDENTIAL_MISSING", message, code=grpc.StatusCode.UNAUTHENTICATED)
