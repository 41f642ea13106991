"""What a worker is told."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from services.core.deadlines import Bounds


def default_home() -> Path:
    """WEFT_HOME, or `~/.weft`."""
    return Path(os.environ.get("WEFT_HOME") or Path.home() / ".weft")


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """`vllm_url` is `http://host:port` or `unix:/path`; with `vllm_command` the worker launches that server itself.

    Durations are in seconds. `bounds` are those of a hop inside the router's, so that the worker is the one to report.
    """

    routers: tuple[str, ...]
    endpoint: str
    key_file: Path
    vllm_url: str
    vllm_command: tuple[str, ...] = ()
    vllm_log: Path | None = None
    max_calls: int = 1024
    grace: float = 30.0
    report_interval: float = 2.0
    bounds: Bounds = field(default_factory=Bounds().inner)
