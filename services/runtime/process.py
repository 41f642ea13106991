"""What a service is given by the process that it runs in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """The surroundings of one service: where its state lives, when to stop, whom to tell that it is ready.

    A service is a coroutine `serve(config, process)`: it starts its parts, calls `ready` with its name and address,
    waits for `stopping`, and stops its parts in order within `grace` seconds.
    """

    home: Path
    ready: Callable[[str, str], None]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    grace: float = 30.0
