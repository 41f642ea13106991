"""A start: one attempt to have one worker, from the decision to the end. Times are in seconds since 1970."""

from __future__ import annotations

import enum
import secrets
from typing import Final

import msgspec


class StartState(enum.IntEnum):
    """How far a start is; by the names and numbers of `weft.launcher.v1.StartState`."""

    PENDING = 1
    QUEUED = 2
    STARTING = 3
    READY = 4
    DRAINING = 5
    GONE = 6
    FAILED = 7


ENDED: Final = frozenset({StartState.GONE, StartState.FAILED})


class Start(msgspec.Struct, frozen=True, omit_defaults=True):
    """One start of one worker.

    Its tasks go to `globus_endpoint` with `credentials` and the user endpoint configuration `config`, in JSON: as they
    were when it was decided, since others would lead to another node. `tasks` is true where calls travel as tasks,
    `task` is Globus's id of the start-worker task. `counts` is false for an end that says nothing against the next
    attempt. `absent_since` is when its worker was first missed at every router; `task_error` why its task is over
    although its worker was still there.

    `cause` is the `traceparent` of the call that it was decided for, if that is traced; `place` that of its own span,
    if it is: written down at the decision, as its worker's span names it as its parent long before it has ended.
    """

    id: str
    endpoint: str
    slot: int
    created_at: float
    state: StartState = StartState.PENDING
    detail: str = "a worker is about to be started"
    tasks: bool = False
    globus_endpoint: str = ""
    credentials: str = ""
    config: str = "{}"
    task: str = ""
    job: str = ""
    host: str = ""
    queue_position: int = 0
    expected_start: float | None = None
    instance: str = ""
    job_end: float | None = None
    submitted_at: float | None = None
    attached_at: float | None = None
    ready_at: float | None = None
    drained_at: float | None = None
    ended_at: float | None = None
    absent_since: float | None = None
    refused_at: float | None = None
    task_error: str = ""
    outcome: str = ""
    counts: bool = True
    revoked: bool = False
    cause: str = ""
    place: str = ""

    @property
    def traceparent(self) -> str:
        """What its worker's own spans belong to; empty if nothing is traced."""
        return self.place or self.cause

    @property
    def live(self) -> bool:
        """Whether it is not over."""
        return self.state not in ENDED

    @property
    def has_worker(self) -> bool:
        """Whether its worker is, or was, there."""
        return self.attached_at is not None

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"starts/{self.id}"


def new_id() -> str:
    """An id that no other start has."""
    return secrets.token_hex(8)
