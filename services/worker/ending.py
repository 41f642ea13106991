"""How a worker ends: why, how long its open calls may take, and what its exit status tells whoever started it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from services.rpc.attachment import RefusedError


class Exit(enum.IntEnum):
    """The exit statuses of `weft worker`. argparse gives 2 for a wrong command line."""

    STOPPED = 0
    ERROR = 1
    REFUSED = 3
    UNREACHABLE = 4
    VLLM_FAILED = 5


class WorkerFailedError(Exception):
    """The worker cannot go on; the message is a sentence that says why."""

    def __init__(self, exit_status: Exit, message: str) -> None:
        self.exit_status = exit_status
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Ending:
    """A worker's end: open calls have `grace` seconds. `failure` is what it tells at the end, None if all is well."""

    why: str
    grace: float
    failure: WorkerFailedError | None = None


def refused(error: RefusedError, grace: float) -> Ending:
    """A router wants this worker no more."""
    failure = WorkerFailedError(Exit.REFUSED, f"The router refuses this worker: {error}")
    return Ending("the router refuses it", grace, failure)


_STOP_SHARE: Final = 0.2
_STOP_LONGEST: Final = 10.0


def calls_until(job_end: float, drain_before: float) -> float:
    """The moment until which calls may go on in a job that ends at `job_end`: what is left after it is for vLLM to
    stop. Seconds since 1970, as `job_end`.
    """
    return job_end - min(_STOP_LONGEST, drain_before * _STOP_SHARE)
