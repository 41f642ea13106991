"""Errors of commands, each told in one sentence."""

from __future__ import annotations

import sys

from services.core.errors import ServiceError
from services.runtime.child import ChildError
from services.runtime.config import ConfigError
from services.runtime.home import HomeInUseError
from services.runtime.metrics import MetricsAddressError


class CommandError(Exception):
    """A command cannot do what was asked; the message says why and what to do."""


_EXPLAINED = (CommandError, ServiceError, ConfigError, HomeInUseError, ChildError, MetricsAddressError)


def explain(error: Exception) -> str | None:
    """The sentence for an error; None if it is a fault of ours, which deserves its traceback."""
    if isinstance(error, _EXPLAINED):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    # Looked up, not imported: most commands fail before they have needed gRPC.
    grpc = sys.modules.get("grpc")
    if grpc is not None and isinstance(error, grpc.RpcError):
        details = getattr(error, "details", lambda: None)()
        return f"A remote call failed: {details or error}"
    return None
