"""What a service is given by the process that it runs in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from services.core.measures import Page
from services.core.tracing import Tracer
from services.runtime.tls import TlsConfig


@dataclass(frozen=True, slots=True)
class Process:
    """The surroundings of one service: where its state lives, when to stop, whom to tell that it is ready,
    how it and the other parts of the mesh know each other, what it traces with, if anything is traced,
    and where it shows its metrics, if anything is counted.

    A service is a coroutine `serve(config, process)`: it starts its parts, calls `ready` with its name and address,
    waits for `stopping`, and stops its parts in order within `grace` seconds.
    """

    home: Path
    ready: Callable[[str, str], None]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    grace: float = 30.0
    tls: TlsConfig = field(default_factory=TlsConfig)
    tracer: Tracer | None = None
    metrics: Page | None = None
