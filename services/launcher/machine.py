"""How a start goes from one state to the next: pure, from what was seen and the time. What is over stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from services.launcher.starts import Start, StartState

_WAITING: Final = (StartState.PENDING, StartState.QUEUED)
_AT_WORK: Final = (StartState.STARTING, StartState.READY, StartState.DRAINING)

SETTLE: Final = 30.0
"""Seconds after which a worker that is expected to be gone is gone, and in which the worker that was admitted in
another's place must have been seen: a task may be delivered twice, and the second of its workers is refused.
"""

_LONGEST: Final = 1000
_MOST_LINES: Final = 100


def short(text: object) -> str:
    """What a node says, as far as it is kept and told on: a node may say anything."""
    return "" if text is None else str(text)[:_LONGEST]


@dataclass(frozen=True, slots=True)
class Seen:
    """A start's worker, as all routers together see it. `ready` is true if its vLLM answers; `draining` if it takes no
    more calls.
    """

    instance: str
    ready: bool = False
    draining: bool = False
    detail: str = ""
    job: str = ""
    host: str = ""
    job_end: float | None = None
    open_calls: int = 0
    ended_calls: int = 0


@dataclass(frozen=True, slots=True)
class Queued:
    """A start's job in its cluster's queue. `running` once it has its nodes; `expected_start` in seconds since 1970."""

    job: str
    running: bool = False
    position: int = 0
    expected_start: float | None = None
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the start-worker task said when it ended; `kind` is one of the words of its contract."""

    kind: str
    detail: str = ""
    job: str = ""
    host: str = ""
    log_tail: tuple[str, ...] = ()

    @classmethod
    def read(cls, result: Any) -> Outcome:
        """The function's result, whatever an older or newer one sends."""
        if not isinstance(result, Mapping):
            return cls("site_error", f"start-worker gave no result that can be read, but {type(result).__name__}")
        found = result.get("job")
        job: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
        lines = result.get("log_tail")
        return cls(
            short(result.get("outcome", "site_error")),
            short(result.get("detail")),
            short(job.get("id")),
            short(job.get("host")),
            tuple(map(short, lines[-_MOST_LINES:])) if isinstance(lines, list | tuple) else (),
        )


def submitted(start: Start, task: str, now: float) -> Start:
    """Globus has taken its task."""
    if not start.live:
        return start
    if start.state is not StartState.PENDING:
        return msgspec.structs.replace(start, task=start.task or task)
    return msgspec.structs.replace(
        start, state=StartState.QUEUED, task=task, submitted_at=now, detail="its job is submitted"
    )


def queue_seen(start: Start, queued: Queued) -> Start:
    """Its cluster tells of its job."""
    if start.state not in _WAITING:
        return start
    detail = "its job has its nodes, and the worker is about to attach" if queued.running else "its job is in the queue"
    return msgspec.structs.replace(
        start,
        job=queued.job or start.job,
        queue_position=0 if queued.running else queued.position,
        expected_start=None if queued.running else queued.expected_start,
        detail=detail if not queued.comment or queued.running else f"{detail}: {queued.comment}",
    )


def worker_seen(start: Start, seen: Seen, now: float, *, walltime: float | None = None) -> Start:
    """Its worker is attached. `walltime` is that of its job, for a worker that does not know when its job ends."""
    if not start.live:
        return start
    attached = now if start.attached_at is None else start.attached_at
    job_end = seen.job_end or start.job_end or (attached + walltime if walltime else None)
    start = msgspec.structs.replace(
        start,
        instance=seen.instance or start.instance,
        job=seen.job or start.job,
        host=seen.host or start.host,
        job_end=job_end,
        attached_at=attached,
        submitted_at=attached if start.submitted_at is None else start.submitted_at,
        queue_position=0,
        expected_start=None,
        absent_since=None,
        refused_at=None,
    )
    if seen.draining or start.state is StartState.DRAINING:
        return draining(start, start.detail if start.state is StartState.DRAINING else seen.detail, now)
    if seen.ready:
        ready_at = now if start.ready_at is None else start.ready_at
        return msgspec.structs.replace(start, state=StartState.READY, ready_at=ready_at, detail="takes calls")
    if start.state is StartState.READY:
        return msgspec.structs.replace(start, detail=seen.detail or "its vLLM does not answer")
    return msgspec.structs.replace(start, state=StartState.STARTING, detail=seen.detail or "vLLM is starting")


def worker_missing(start: Start, now: float, *, lost_after: float) -> Start:
    """No router has its worker. One that drained, or whose task is over, is gone after a short while; any other may
    come back until `lost_after` seconds.
    """
    if start.state not in _AT_WORK:
        return _refusal_settled(start, now)
    if start.tasks and start.state is not StartState.DRAINING:
        return start  # It is its node that tells of it.
    if start.absent_since is None or start.absent_since > now:  # the clock may have been set back
        start = msgspec.structs.replace(start, absent_since=now)
    absent = now - (start.absent_since or now)
    if start.state is StartState.DRAINING and absent >= min(lost_after, SETTLE):
        return ended(start, now, detail=start.detail, outcome="stopped")
    if start.task_error and absent >= min(lost_after, SETTLE):
        return failed(start, now, start.task_error, outcome="lost")
    if absent >= lost_after:
        return failed(start, now, f"its worker has not been seen for {absent:.0f} s", outcome="lost")
    return start


def _refusal_settled(start: Start, now: float) -> Start:
    if start.state in _WAITING and start.refused_at is not None and now - start.refused_at >= SETTLE:
        return failed(start, now, start.detail, outcome="refused")
    return start


def task_ended(start: Start, outcome: Outcome, now: float) -> Start:
    """Its start-worker task has ended, and the worker with it."""
    if not start.live:
        return start
    if outcome.kind == "refused" and start.has_worker:
        return start  # The one that was refused came second; the first is at work.
    start = msgspec.structs.replace(start, job=outcome.job or start.job, host=outcome.host or start.host)
    detail = outcome.detail or _WORDS.get(outcome.kind, f"start-worker ended with {outcome.kind!r}")
    if outcome.kind == "refused":
        return msgspec.structs.replace(start, refused_at=start.refused_at or now, detail=detail)
    if outcome.kind in ("stopped", "walltime"):
        if start.has_worker or start.tasks:
            return ended(start, now, detail=detail, outcome=outcome.kind)
        return failed(start, now, f"its job ended before a worker attached: {detail}", outcome=outcome.kind)
    if start.state is StartState.DRAINING:
        return ended(start, now, detail=detail, outcome="stopped")
    return failed(start, now, detail, outcome=outcome.kind if outcome.kind in _WORDS else "other")


def task_failed(start: Start, why: str, now: float, *, outcome: str) -> Start:
    """Globus could not carry its task, or lost it. A worker that is attached all the same goes on."""
    if start.live and start.has_worker and not start.tasks:
        return msgspec.structs.replace(start, task_error=why)
    return failed(start, now, why, outcome=outcome)


def delayed(start: Start, why: str) -> Start:
    """It could not be submitted yet."""
    return msgspec.structs.replace(start, detail=why) if start.state is StartState.PENDING else start


def node_seen(start: Start, state: str, detail: str, now: float, *, walltime: float | None = None) -> Start:
    """What the node says, by a task, of a start whose calls travel as tasks: `none`, `starting` or `ready`."""
    if not start.live or start.state is StartState.DRAINING:
        return start
    seen = Seen("", ready=state == "ready", detail=detail or "vLLM is starting")
    return worker_seen(start, seen, now, walltime=walltime)


def revoked(start: Start) -> Start:
    """It is over, and nothing is left to do for it."""
    return start if start.live else msgspec.structs.replace(start, revoked=True)


def draining(start: Start, why: str, now: float) -> Start:
    """Its worker takes no more calls."""
    if not start.live:
        return start
    drained = now if start.drained_at is None else start.drained_at
    return msgspec.structs.replace(
        start, state=StartState.DRAINING, drained_at=drained, detail=why or "finishes its calls"
    )


def ended(start: Start, now: float, *, detail: str, outcome: str) -> Start:
    """It is over as it should be."""
    return _over(start, StartState.GONE, now, detail, outcome)


def failed(start: Start, now: float, detail: str, *, outcome: str, counts: bool = True) -> Start:
    """It is over by an error. `counts` is false for one that the next attempt is not to wait for."""
    if not start.live:
        return start
    return msgspec.structs.replace(_over(start, StartState.FAILED, now, detail, outcome), counts=counts)


def _over(start: Start, state: StartState, now: float, detail: str, outcome: str) -> Start:
    if not start.live:
        return start
    return msgspec.structs.replace(
        start, state=state, ended_at=now, detail=detail, outcome=outcome, queue_position=0, expected_start=None
    )


_WORDS: Final = {
    "stopped": "its worker ended",
    "walltime": "its job reached its walltime",
    "refused": "the router refused its worker",
    "router_unreachable": "its node cannot reach a router",
    "vllm_failed": "its vLLM failed",
    "site_error": "its site is not set up as it must be",
}
