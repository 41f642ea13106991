"""`weft up` as a part: the whole mesh on this machine, as a newcomer starts it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from services.runtime.child import ChildSpec
from tests.testing.processes import SOON, Part

_WHOLE = 3 * SOON
"""Seconds for a whole mesh: its parts start one after the other, and `weft up` itself gives up on one that does not.
Less than pytest gives a test.
"""


class Up(Part):
    """A `weft up` on free ports, with its home in `folder`. `url` and `key` are there once it has begun. `environ` is
    for settings.
    """

    def __init__(self, folder: Path, *flags: str, environ: Mapping[str, str] = MappingProxyType({})) -> None:
        self._home = folder / "home"
        command = (sys.executable, "-m", "services.cli", "up", "--port", "0", *flags)
        super().__init__(
            ChildSpec("up", command, folder / "up.log", {"WEFT_HOME": str(self._home), **environ}, announces=False),
        )
        self.url = ""

    @property
    def key(self) -> str:
        """The development key."""
        return (self._home / "dev.key").read_text().strip()

    async def begin(self) -> None:
        """Starts it, and returns when it has told its address."""
        self.launch()
        words = "Base URL"
        try:
            async with asyncio.timeout(_WHOLE):
                while words not in self.log:
                    assert self.running, self.log
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"the mesh was not up within {_WHOLE:g} s\n{self.log}") from None
        self.url = self.log.partition(words)[2].split()[0].removesuffix("/v1")
