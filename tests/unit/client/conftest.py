"""What the client's tests share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.client.server import Server


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A plain one."""
    async with Server() as running:
        yield running


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without what the developer's own environment says of a mesh."""
    for name in ("WEFT_KEY", "WEFT_ROUTER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WEFT_HOME", str(tmp_path / "no-home"))
