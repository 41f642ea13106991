"""What a worker is told."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from services.core.deadlines import Bounds
from services.rpc.remote import Way


def default_home() -> Path:
    """WEFT_HOME, or `~/.weft`."""
    return Path(os.environ.get("WEFT_HOME") or Path.home() / ".weft")


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """`vllm_url` is `http://host:port` or `unix:/path`; with `vllm_command` the worker launches that server itself.

    `enrolment_token_file`, if there is one, is used in place of `key_file`. Durations are in seconds. `bounds` are
    those of a hop inside the router's, so that the worker is the one to report.
    """

    routers: tuple[str, ...]
    endpoint: str
    key_file: Path
    vllm_url: str
    enrolment_token_file: Path | None = None
    way: Way = field(default_factory=Way)
    vllm_command: tuple[str, ...] = ()
    vllm_log: Path | None = None
    vllm_restarts: int | None = None
    """vLLM's failures in a row after which the worker ends; None means never."""
    max_calls: int = 1024
    grace: float = 30.0
    attach_timeout: float | None = None
    """How long the worker tries to attach to a first router; None means for ever."""
    otlp_address: str = ""
    """Where vLLM's spans are taken, `host:port`, for `{otlp}` in the command and for attached ones; empty means
    nowhere.
    """
    job_id: str = ""
    job_end: float | None = None
    """When all that runs in the job ends, seconds since 1970; None means never."""
    drain_before: float = 60.0
    """How long before `job_end` the worker takes no more calls, so that the open ones can finish."""
    report_interval: float = 2.0
    bounds: Bounds = field(default_factory=Bounds().inner)
