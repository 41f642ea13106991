"""The cold endpoints: how far their workers' starts are, which of them a waiting call has started, and the words for
it; pure.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from services.core.tracing import TraceContext
from services.router.targets import Launchable, Sought

_DEFAULT_RETRY: Final = 30.0
"""Seconds after which to come back, where the launcher does not say."""
_LONGEST_DETAIL: Final = 300


class StartState(enum.Enum):
    """How far the farthest start of an endpoint is; by the names and numbers of `weft.launcher.v1.StartState`."""

    NONE = 0
    PENDING = 1
    QUEUED = 2
    STARTING = 3
    READY = 4
    DRAINING = 5
    GONE = 6
    FAILED = 7


_UNDER_WAY: Final = (StartState.PENDING, StartState.QUEUED, StartState.STARTING)
_WORDS: Final = {
    StartState.PENDING: "its start has been asked for",
    StartState.QUEUED: "its job waits in the queue",
    StartState.STARTING: "its model server is starting",
    StartState.READY: "its workers have as many calls as they take",
}


@dataclass(frozen=True, slots=True)
class ColdEndpoint:
    """What the launcher says of an endpoint. `retry_after` is in seconds, 0 where it does not say; `tasks` tells that
    calls travel as tasks; `failed` that nothing is tried before `retry_after`.
    """

    state: StartState = StartState.NONE
    detail: str = ""
    retry_after: float = 0.0
    tasks: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Outlook:
    """What those hear who wait: a word, a sentence's part, and when to come back, in seconds."""

    word: str
    detail: str
    retry_after: float
    under_way: bool = False


class ColdEndpoints:
    """The states of the endpoints, by name. What is not there is not known: the launcher is away, or has yet to say.

    `changed` is called with the names of those that are in another state. `unheard` tells that no launcher has answered
    since this router began, though it had time: most likely none runs, and nothing will start a worker.
    """

    def __init__(self) -> None:
        self.unheard = False
        self.changed: Callable[[frozenset[str]], None] = lambda endpoints: None
        self._known: dict[str, ColdEndpoint] = {}

    def get(self, endpoint: str) -> ColdEndpoint | None:
        """What the launcher says of an endpoint."""
        return self._known.get(endpoint)

    def learn(self, states: Mapping[str, ColdEndpoint | None]) -> None:
        """The launcher has spoken; None stands for an endpoint that is no more."""
        other = frozenset(name for name, state in states.items() if self._known.get(name) != state)
        for name in other:
            state = states[name]
            if state is None:
                self._known.pop(name, None)
            else:
                self._known[name] = state
        if other:
            self.changed(other)

    def give_up(self, endpoints: frozenset[str]) -> None:
        """No launcher answers, and none has: calls for these need not wait for one."""
        self.unheard = True
        self.changed(endpoints)

    def replace(self, states: Mapping[str, ColdEndpoint]) -> None:
        """These are all that there are; none, when the launcher is away."""
        self.learn({**dict.fromkeys(self._known), **states})

    def choose(self, launchable: Sequence[Launchable]) -> Launchable | None:
        """Where a worker is started for a call that waits; None if its endpoints are all closed.

        One endpoint and not each, for a call needs one worker: where a start is under way already, else the first that
        can have one more, else the first; one whose starts fail comes last.
        """
        return min((one for one in launchable if not one.closed), key=self._rank, default=None)

    def _rank(self, launchable: Launchable) -> tuple[bool, int, bool]:
        known = self._known.get(launchable.endpoint, ColdEndpoint())
        far = known.state.value if known.state in _UNDER_WAY else 0
        return (known.failed, -far, not launchable.grows)

    def hopeless(self, launchable: Sequence[Launchable], within: float) -> bool:
        """Whether no worker is tried to be started anywhere within so many seconds."""
        if self.unheard:
            return True
        known = [self._known.get(one.endpoint) for one in launchable if not one.closed]
        return all(state is not None and state.failed and state.retry_after > within for state in known)

    def outlook(self, launchable: Sequence[Launchable]) -> Outlook:
        """What a call that waits for one of these may expect."""
        chosen = self.choose(launchable)
        if chosen is None:
            return Outlook("waiting", "no worker serves it at present", 5.0)
        known = self._known.get(chosen.endpoint)
        if self.unheard:
            return Outlook("waiting", "the launcher, which would start one, does not answer", _DEFAULT_RETRY)
        if known is None:
            return Outlook("waiting", "how far the start of a worker is, is not known at present", _DEFAULT_RETRY)
        retry_after = known.retry_after or _DEFAULT_RETRY
        detail = " ".join(known.detail.split())[:_LONGEST_DETAIL].rstrip(".")
        if known.failed or known.state is StartState.FAILED:
            return Outlook("failed", detail or "the start of a worker has failed", retry_after)
        if known.state in _UNDER_WAY:
            return Outlook(known.state.name.lower(), detail or _WORDS[known.state], retry_after, under_way=True)
        if known.state is StartState.READY and chosen.workers:
            return Outlook("busy", _WORDS[known.state], retry_after)
        return Outlook("waiting", detail or "a worker has been asked for", retry_after, under_way=True)


def wants(
    cold: ColdEndpoints,
    waiting: Mapping[Sought, int],
    launchable: Callable[[Sought], Sequence[Launchable]],
) -> Counter[str]:
    """The calls that wait for a worker, by endpoint. Those that are open the launcher sees itself, at all routers."""
    wanted: Counter[str] = Counter()
    for sought, count in waiting.items():
        chosen = cold.choose(launchable(sought))
        if chosen is not None:
            wanted[chosen.endpoint] += count
    return wanted


def cause(
    cold: ColdEndpoints,
    waiting: Mapping[Sought, TraceContext | None],
    launchable: Callable[[Sought], Sequence[Launchable]],
    endpoint: str,
) -> str:
    """The `traceparent` of a call that waits for a worker of an endpoint, of one that is sampled if any is; empty if
    none is traced. `waiting` has a call's span for everything that calls wait for.
    """
    found: TraceContext | None = None
    for sought, place in waiting.items():
        if place is None or (found is not None and not place.sampled):
            continue
        chosen = cold.choose(launchable(sought))
        if chosen is not None and chosen.endpoint == endpoint:
            found = place
            if place.sampled:
                break
    return found.traceparent if found is not None else ""
