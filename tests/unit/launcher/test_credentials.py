"""How the launcher opens Globus Compute."""

from __future__ import annotations

import logging

import pytest

from services.globus.errors import GlobusError, Kind
from services.launcher.config import LauncherConfig
from services.launcher.credentials import open_globus


async def test_the_libraries_are_quiet_and_credentials_that_are_not_there_are_named() -> None:
    tasks = open_globus(LauncherConfig())
    assert not logging.getLogger("pika.adapters.utils.connection_workflow").isEnabledFor(logging.INFO)
    with pytest.raises(GlobusError, match="no credentials 'other'") as caught:
        await tasks.allowed_functions("other", "endpoint")
    assert caught.value.kind is Kind.BAD_CREDENTIALS
    await tasks.close()
