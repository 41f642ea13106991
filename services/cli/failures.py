"""Errors of commands, each told in one sentence."""

from __future__ import annotations

import sys
import tempfile
import traceback

from services.core.errors import ServiceError
from services.runtime.child import ChildError
from services.runtime.config import ConfigError
from services.runtime.home import HomeInUseError
from services.runtime.metrics import MetricsAddressError


class CommandError(Exception):
    """A command cannot do what was asked; the message says why and what to do."""


_EXPLAINED = (CommandError, ServiceError, ConfigError, HomeInUseError, ChildError, MetricsAddressError)


def explain(error: Exception) -> str:
    """The sentence for an error. The traceback of a fault of ours goes to a file, which the sentence names."""
    if isinstance(error, _EXPLAINED):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    # Looked up, not imported: most commands fail before they have needed gRPC.
    grpc = sys.modules.get("grpc")
    if grpc is not None and isinstance(error, grpc.RpcError):
        details = getattr(error, "details", lambda: None)()
        return f"A remote call failed: {details or error}"
    return f"This is a fault of Weft itself: {type(error).__name__}: {error}. {_keep_traceback(error)}"


def _keep_traceback(error: Exception) -> str:
    text = "".join(traceback.format_exception(error))
    with tempfile.NamedTemporaryFile("w", prefix="weft-fault-", suffix=".txt", delete=False) as file:
        file.write(text)
    return f"Please report it, with the traceback in {file.name}."
