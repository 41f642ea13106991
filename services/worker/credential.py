"""What a worker enrols with, from its file."""

from __future__ import annotations

from pathlib import Path

from services.core.errors import Reason, ServiceError
from services.rpc.attachment import Credential
from services.worker.config import WorkerConfig


def credential_of(config: WorkerConfig) -> Credential:
    """The worker's credential. Raises CREDENTIAL_MISSING if there is an enrolment token's file and it holds none."""
    file = config.enrolment_token_file
    if file is None:
        # Read anew at each enrolment, so that a rotated key is taken up without a restart.
        return Credential(lambda: _read(config.key_file, "key"))
    # Read once: whoever wrote it may take it away as soon as the worker runs.
    token = _read(file, "enrolment token")
    return Credential(lambda: token, once=True)


def _read(path: Path, what: str) -> str:
    try:
        text = path.read_text().strip()
    except OSError as error:
        message = f"The worker's {what} cannot be read from {path}: {error.strerror}."
        raise ServiceError(Reason.CREDENTIAL_MISSING, message) from error
    if not text:
        raise ServiceError(Reason.CREDENTIAL_MISSING, f"The file of the worker's {what}, {path}, is empty.")
    return text
