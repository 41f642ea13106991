"""Opens Globus Compute, with the credentials that the configuration names."""

from __future__ import annotations

import logging
from typing import Final

from globus_compute_sdk import Client

from services.globus.credentials import open_client
from services.globus.errors import GlobusError, Kind
from services.globus.tasks import Tasks
from services.launcher.config import LauncherConfig
from services.launcher.tasks import TaskRunner

_TALKATIVE: Final = ("globus_compute_sdk", "globus_sdk", "pika")
"""They tell each connection's every step, as loud as what the launcher itself has to say."""


def open_globus(config: LauncherConfig) -> TaskRunner:
    """Globus Compute itself. Nothing is asked of it before the first task."""
    for library in _TALKATIVE:
        logging.getLogger(library).setLevel(logging.WARNING)

    def client(name: str) -> Client:
        if name not in config.credentials:
            known = ", ".join(sorted(config.credentials)) or "none"
            sentence = f"There are no credentials {name!r} in the launcher's configuration; it has: {known}."
            raise GlobusError(Kind.BAD_CREDENTIALS, sentence, f"Add 'launcher.credentials.{name}' to weft.yaml.")
        return open_client(config.credentials[name])

    return Tasks(client)
