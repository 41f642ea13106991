"""What is to be done for one endpoint now: pure. The same question asked again after its actions were done gives none.

Workers are wanted by the policy's minimum, by calls that wait, and by calls that are open where one worker is to take
only so many. A job near its end no longer counts, so that its replacement starts while it still works; the two together
may be one more than the maximum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.launcher.starts import Start, StartState

_WAITING: Final = (StartState.PENDING, StartState.QUEUED)
_PAST: Final = 60.0
"""Seconds after the end of a job at which a worker by tasks is over that nothing tells of: it has no session to be
missed, and the task of an agent that was killed may never end.
"""
_FEWER: Final = "its endpoint is to have fewer workers"
_NONE: Final = "its endpoint starts no workers any more"


@dataclass(frozen=True, slots=True)
class Policy:
    """A launch policy with every default filled in; durations in seconds. `closed` says why no worker may be started,
    empty if one may.
    """

    min_workers: int = 0
    max_workers: int = 1
    calls_per_worker: int = 0
    idle_time: float = 1800.0
    keep_warm: bool = False
    replace_before: float = 900.0
    queue_time: float = 604_800.0
    start_time: float = 7200.0
    first_backoff: float = 10.0
    longest_backoff: float = 1800.0
    closed: str = ""


@dataclass(frozen=True, slots=True)
class Use:
    """How a worker is used: the calls that it has open, and when it last had one, in seconds since 1970."""

    open_calls: int = 0
    last_call: float = 0.0


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a worker."""

    slot: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Have a worker finish its calls and end."""

    start: str
    why: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End a start whose worker has not come, or never became ready; `failed` if that is an error."""

    start: str
    why: str
    failed: bool = True


Action = Launch | Stop | GiveUp


@dataclass(frozen=True, slots=True)
class Backoff:
    """The failures since the last success, and until when the next attempt waits; in seconds since 1970."""

    failures: int = 0
    until: float = 0.0
    why: str = ""


def backoff(policy: Policy, ended: Iterable[Start], now: float) -> Backoff:
    """What the starts that are over, newest first, mean for the next one. An end that lies far ahead is none to wait
    for: the clock has been set back.
    """
    failures, last = 0, None
    for start in ended:
        if not start.counts:
            continue
        served = (start.ended_at or 0.0) - start.ready_at if start.ready_at is not None else 0.0
        if start.state is not StartState.FAILED or served >= policy.longest_backoff:
            break
        failures, last = failures + 1, last or start
    if last is None or last.ended_at is None or last.ended_at - now > policy.longest_backoff:
        return Backoff()
    pause = min(policy.first_backoff * 2.0 ** min(failures - 1, 30), policy.longest_backoff)
    return Backoff(failures, last.ended_at + pause, last.detail)


def decide(
    policy: Policy,
    live: Sequence[Start],
    waiting: int,
    use: Mapping[str, Use],
    resting: Backoff,
    now: float,
    *,
    asked: Mapping[str, str] | None = None,
) -> list[Action]:
    """What to do. `live` are the endpoint's starts that are not over, `waiting` the calls that wait for a worker, `use`
    the workers by their starts' ids, `asked` why starts are to stop because somebody asked.
    """
    asked = asked or {}
    actions: list[Action] = []
    leaving = {start.id for start in live if start.state is StartState.DRAINING}
    for start in live:
        action = _overdue(policy, start, now) or _asked(start, asked)
        if action is not None and start.id not in leaving:
            leaving.add(start.id)
            actions.append(action)
    staying = [start for start in live if start.id not in leaving]
    ending = [start for start in staying if now >= _end_begins(policy, start)]
    counted = [start for start in staying if start not in ending]
    in_use = [start for start in ending if not _is_idle(policy, start, use, now)]

    calls = waiting + sum(use.get(start.id, Use()).open_calls for start in staying)
    by_calls = math.ceil(calls / policy.calls_per_worker) if policy.calls_per_worker else min(waiting, 1)
    wanted = min(max(policy.min_workers, min(waiting, 1), by_calls), policy.max_workers)

    if not policy.closed and now >= resting.until:
        heirs = [start for start in counted if _takes_over(policy, start, in_use, use, now)]
        missing = max(wanted - len(counted), len(in_use) - len(heirs))
        room = policy.max_workers + (1 if ending or leaving else 0) - len(live)
        taken = {start.slot for start in live}
        free = (slot for slot in itertools.count() if slot not in taken)
        count = min(missing, room, policy.max_workers - len(counted))
        actions += [Launch(slot) for slot in itertools.islice(free, max(0, count))]
    beyond = _beyond(policy, counted if policy.max_workers else staying, use)
    least = max(wanted, 1 if policy.keep_warm else 0) + len(in_use)
    idle = _idle(policy, [start for start in counted if start not in beyond], least, use, now)
    return actions + [_end(start, _FEWER if policy.max_workers else _NONE) for start in beyond] + idle


def _overdue(policy: Policy, start: Start, now: float) -> Action | None:
    if start.state in _WAITING and now - start.created_at >= policy.queue_time:
        return GiveUp(start.id, f"no worker of its job attached within {span(policy.queue_time)}")
    if start.tasks and start.job_end is not None and now >= start.job_end + _PAST:
        return GiveUp(start.id, "the time of its job is over", failed=False)
    began = start.attached_at if start.attached_at is not None else start.created_at
    if start.state is StartState.STARTING and now - began >= policy.start_time:
        return GiveUp(start.id, f"its vLLM did not answer within {span(policy.start_time)}: {start.detail}")
    return None


def _asked(start: Start, asked: Mapping[str, str]) -> Action | None:
    why = asked.get(start.id)
    return None if why is None else _end(start, why)


def _end(start: Start, why: str) -> Action:
    return GiveUp(start.id, why, failed=False) if start.state in _WAITING else Stop(start.id, why)


def _end_begins(policy: Policy, start: Start) -> float:
    """When a start no longer counts because its job ends: at the earliest in the middle of its time."""
    if start.job_end is None:
        return math.inf
    began = start.attached_at if start.attached_at is not None else start.created_at
    return start.job_end - min(policy.replace_before, (start.job_end - began) / 2)


def _takes_over(policy: Policy, start: Start, ending: Sequence[Start], use: Mapping[str, Use], now: float) -> bool:
    """Whether a start is there in the place of one that ends: started for that, or with nothing to do."""
    return _is_idle(policy, start, use, now) or any(start.created_at >= _end_begins(policy, other) for other in ending)


def _is_idle(policy: Policy, start: Start, use: Mapping[str, Use], now: float) -> bool:
    used = use.get(start.id)
    if used is None or start.state is not StartState.READY:
        return False
    return not used.open_calls and now - max(used.last_call, start.ready_at or 0.0) >= policy.idle_time


def _beyond(policy: Policy, starts: Sequence[Start], use: Mapping[str, Use]) -> list[Start]:
    """Those beyond the maximum, which may have been lowered: first those that have come least far."""
    order = sorted(starts, key=lambda start: (start.state, use.get(start.id, Use()).open_calls, -start.created_at))
    return order[: max(0, len(starts) - policy.max_workers)]


def _idle(policy: Policy, counted: Sequence[Start], least: int, use: Mapping[str, Use], now: float) -> list[Action]:
    idle = [start for start in counted if _is_idle(policy, start, use, now)]
    idle.sort(key=lambda start: use[start.id].last_call)
    ready = sum(start.state is StartState.READY for start in counted)
    why = f"it has had no call for {span(policy.idle_time)}"
    return [Stop(start.id, why) for start in idle[: max(0, ready - least)]]


def span(seconds: float) -> str:
    """A duration for people."""
    for size, word in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {word}"
    return f"{seconds:.3g} seconds"
