"""What all calls share, of both clients: settings, metadata, deadlines, retries. Nothing here waits or sends."""

from __future__ import annotations

import asyncio
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
from weft.client.channel import MutualTls, Target, Tls, is_loopback
from weft.client.credentials import KEY_VARIABLE, ApiKey, Credential
from weft.client.errors import WeftError, from_rpc
from weft.client.retry import Attempts, Retry
from weft.client.trace import trace_headers

Metadata = Iterable[tuple[str, str]]
"""Headers of a call: `(("x-request-id", "…"), ("traceparent", "…"))`."""

DEFAULT_ROUTER: Final = "127.0.0.1:7000"
"""Where `weft up` has it."""
DEFAULT_TIMEOUT: Final = 600.0
"""Seconds: a model may have to be started first."""

_NAME: Final = re.compile(r"[0-9a-z_.-]+")
_VALUE: Final = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a client was made with. `timeout` is in seconds."""

    target: Target
    credential: Credential | None
    timeout: float
    retry: Retry | None
    clock: Callable[[], float] = field(default=time.monotonic)

    @classmethod
    def of(
        cls,
        address: str | None,
        credential: Credential | str | None,
        tls: Tls | None,
        insecure: bool,
        timeout: float,
        retry: Retry | None,
    ) -> Settings:
        """The settings, with what the environment says where nothing was given. Raises ValueError, or `NotAllowed`."""
        address = address or os.environ.get("WEFT_ROUTER") or DEFAULT_ROUTER
        if isinstance(credential, str):
            credential = ApiKey(credential)
        elif credential is None and not isinstance(tls, MutualTls):
            credential = _key_of_surroundings(address)
        return cls(Target.of(address, tls, insecure=insecure), credential, timeout, retry)


class Calling:
    """One call: its deadline, its attempts, its metadata."""

    def __init__(self, settings: Settings, timeout: float | None, metadata: Metadata) -> None:
        self._attempts = Attempts(settings.retry, settings.timeout if timeout is None else timeout, settings.clock)
        given = _checked(metadata)
        names = {name for name, _ in given}
        if "x-request-id" not in names:
            given.append(("x-request-id", uuid.uuid4().hex))
        if "traceparent" not in names:
            given.extend(trace_headers())
        self._metadata = tuple(given)

    @property
    def request_id(self) -> str:
        """The call's id, in all of its attempts."""
        return next(value for name, value in self._metadata if name == "x-request-id")

    @property
    def remaining(self) -> float:
        """Seconds to the deadline."""
        return self._attempts.remaining

    def metadata(self, token: str | None) -> tuple[tuple[str, str], ...]:
        """An attempt's metadata."""
        return self._metadata if token is None else (*self._metadata, ("authorization", f"Bearer {token}"))

    def cancelled(self) -> None:
        """The call was cancelled. If it was not the task that waits for it, somebody has closed the client, or the
        stream: raises the `WeftError` for that, as a CancelledError would end the task as if itself were meant.
        """
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            raise WeftError(
                "CANCELLED",
                "The call was cancelled: its client, or its stream, was closed.",
                code=grpc.StatusCode.CANCELLED,
                request_id=self.request_id,
            ) from None

    def failed(self, failed: grpc.RpcError, *, begun: bool = False) -> float:
        """Seconds to wait until the next attempt. Raises the `WeftError` that it is if there is none, as there is where
        a part of the answer has come.
        """
        error = from_rpc(failed, self.request_id)
        if begun:
            raise error
        return self._attempts.failed(error)


def _key_of_surroundings(address: str) -> ApiKey | None:
    """The key in WEFT_KEY; else, for a mesh on this machine, the one that `weft up` has made."""
    if os.environ.get(KEY_VARIABLE):
        return ApiKey.from_environment()
    made = Path(os.environ.get("WEFT_HOME") or "~/.weft").expanduser() / "dev.key"
    return ApiKey.from_file(made) if is_loopback(address) and made.is_file() else None


def _checked(metadata: Metadata) -> list[tuple[str, str]]:
    """Raises ValueError for what gRPC would refuse: its own error quotes all metadata, the credential included."""
    given = [(name.lower(), value) for name, value in metadata]
    for name, value in given:
        if not _NAME.fullmatch(name) or name.endswith("-bin") or not _VALUE.fullmatch(value):
            raise ValueError(f"The metadata {name!r} must have a name and a value of printable ASCII.")
        if name == "authorization":
            raise ValueError("The credential is the client's: give it as `credential`.")
    return given
