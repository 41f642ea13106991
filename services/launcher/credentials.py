"""Opens Globus Compute, with the credentials that the configuration names."""

from __future__ import annotations

from globus_compute_sdk import Client

from services.globus.credentials import open_client
from services.globus.errors import GlobusError, Kind
from services.globus.tasks import Tasks
from services.launcher.config import LauncherConfig
from services.launcher.tasks import TaskRunner


def open_globus(config: LauncherConfig) -> TaskRunner:
    """Globus Compute itself. Nothing is asked of it before the first task."""

    def client(name: str) -> Client:
        if name not in config.credentials:
            known = ", ".join(sorted(config.credentials)) or "none"
            sentence = f"There are no credentials {name!r} in the launcher's configuration; it has: {known}."
            raise GlobusError(Kind.BAD_CREDENTIALS, sentence, f"Add 'launcher.credentials.{name}' to weft.yaml.")
        return open_client(config.credentials[name])

    return Tasks(client)
