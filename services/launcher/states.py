"""What those who wait are told of an endpoint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.launcher.policy import Backoff, Policy
from services.launcher.starts import Start, StartState

_RETRY: Final[Mapping[StartState, int]] = {
    StartState.PENDING: 30,
    StartState.QUEUED: 60,
    StartState.STARTING: 30,
    StartState.READY: 1,
    StartState.DRAINING: 10,
}
"""Seconds after which to ask again, where nothing better is known."""
_RETRY_LONGEST: Final = 3600


@dataclass(frozen=True, slots=True)
class EndpointState:
    """An endpoint that workers are started for; as `weft.launcher.v1.EndpointState`."""

    endpoint: str
    state: StartState | None = None
    detail: str = ""
    retry_after: int = 0
    tasks: bool = False
    failed: bool = False


def describe(
    endpoint: str, policy: Policy, live: Iterable[Start], resting: Backoff, now: float, *, tasks: bool
) -> EndpointState:
    """The endpoint in the words of its farthest start; one that leaves comes last."""
    farthest = max(live, key=_distance, default=None)
    if farthest is not None:
        detail = _sentence(farthest, endpoint)
        return EndpointState(endpoint, farthest.state, detail, _retry(farthest, now), tasks)
    if policy.closed:
        return EndpointState(endpoint, None, policy.closed, 0, tasks, failed=True)
    if now < resting.until:
        tries = "the last attempt" if resting.failures == 1 else f"the last {resting.failures} attempts"
        at = f"{datetime.fromtimestamp(resting.until):%H:%M:%S}"
        detail = f"{tries} to start a worker failed: {resting.why.rstrip('.')}; the next one is at {at}"
        return EndpointState(endpoint, None, detail, _until(resting.until, now), tasks, failed=True)
    return EndpointState(endpoint, None, "no worker is running; a call starts one", 0, tasks)


def _distance(start: Start) -> tuple[bool, int]:
    return start.state is not StartState.DRAINING, start.state


def _sentence(start: Start, endpoint: str) -> str:
    if start.state is not StartState.QUEUED or not start.queue_position:
        return start.detail
    cluster = endpoint.partition("/endpoints/")[0]
    sentence = f"its job is {ordinal(start.queue_position)} in the queue of '{cluster}'"
    if start.expected_start is not None:
        sentence += f", expected to start at {datetime.fromtimestamp(start.expected_start):%H:%M}"
    return sentence


def _retry(start: Start, now: float) -> int:
    if start.state is StartState.QUEUED and start.expected_start is not None:
        return min(_until(start.expected_start, now), _RETRY_LONGEST)
    return _RETRY.get(start.state, 0)


def _until(time: float, now: float) -> int:
    """Seconds until then, rounded up to steps: what counts down by the second would be news by the second,
    for every router and for every call that waits there.
    """
    left = max(math.ceil(time - now), 1)
    step = 10 if left <= 120 else 60
    return math.ceil(left / step) * step


def ordinal(number: int) -> str:
    """A place in a queue: first, second, 21st."""
    words = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
    if number < len(words):
        return words[number]
    ends = {1: "st", 2: "nd", 3: "rd"} if number % 100 not in (11, 12, 13) else {}
    return f"{number}{ends.get(number % 10, 'th')}"
