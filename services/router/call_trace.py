"""What a traced call notes of itself while it is in the router: times and facts, of which `call_spans` makes spans when
it has ended, if they are kept at all.

A call that is not sampled is kept only if something goes wrong, and most have nothing to tell: as long as it goes the
warm way (its caller is known, its limits have room, a server is free, and answers) it notes its beginning and its first
attempt, and takes notes from when it leaves it. Where content is told, every call takes notes of all: what a failed one
has answered is known only to who has kept it as it passed.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from services.core.inference import Request
from services.core.tracing import TraceContext, Tracer, parent_in
from services.router.bill import Bill
from services.router.call_content import Beginning
from services.router.plan import FULL, Plan
from services.router.targets import Target

AUTHENTICATE: Final = "authenticate"
ADMIT: Final = "admit"
WAIT: Final = "wait"

AT_CAPACITY: Final = "at capacity"
STARTING: Final = "starting"
NO_WORKER: Final = "no worker"

MOST_STEPS: Final = 64
_MOST_STATES: Final = 16
"""A call that waits for hours, or is tried anew for as long, tells of so much."""


class Step(msgspec.Struct, gc=False):
    """A part of what is done for a call: a span under the call's. An attempt has a `target`, a wait a reason `why`.
    Times are in nanoseconds since 1970; `ended` is 0 as long as it goes on. `error` is the reason, in lower case.
    """

    name: str
    context: TraceContext
    started: int
    ended: int = 0
    target: Target | None = None
    candidates: int = 0
    status: int = 0
    error: str = ""
    why: str = ""
    states: tuple[tuple[int, str], ...] = ()


class CallTrace(msgspec.Struct, gc=False):
    """The notes. The steps follow one another: the next ends the one before. Whatever else becomes of the call is known
    at its end, from its bill.

    `noting` tells whether it takes notes of all. `authenticated`, `authorised` and `admitted` are the times of it, 0
    for what has not happened, or was not noted.
    """

    tracer: Tracer
    parent: TraceContext | None
    own: TraceContext | None
    """The place of the call's own span. Inside the mesh it is made when somebody asks for it."""
    request: Request
    started: int
    noting: bool
    steps: list[Step] = []
    unnoted: tuple[Target, TraceContext, int, int] | None = None
    """The attempt of a call that takes no notes yet: at what, its place, when, and of how many candidates the best."""
    authenticated: int = 0
    authorised: int = 0
    admitted: int = 0
    retried: bool = False
    """An attempt has failed."""
    answer: Beginning | None = None
    """What is kept of the answer's text, where content is told."""

    @property
    def context(self) -> TraceContext:
        """The place of the call's own span."""
        if self.own is None:
            self.own = self.tracer.follow(self.parent)
        return self.own

    def note(self) -> None:
        """From now on it takes notes of all: it has left the warm way, or has failed."""
        self.noting = True
        if self.unnoted is not None:
            target, place, at, candidates = self.unnoted
            self.steps.append(Step("", place, at, 0, target, candidates))
            self.unnoted = None

    def begin(self, name: str, *, why: str = "", candidates: int = 0) -> TraceContext:
        """A step begins; returns its place. A wait that goes on is one."""
        self.note()
        now = time.time_ns()
        last = self.steps[-1] if self.steps else None
        if last is not None and not last.ended:
            if name == last.name == WAIT:
                return last.context
            last.ended = now
        step = Step(name, self.context.child(), now, why=why, candidates=candidates)
        if len(self.steps) < MOST_STEPS:
            self.steps.append(step)
        return step.context

    def authorise(self, bill: Bill) -> None:
        """Its caller may make it."""
        self.authorised = time.time_ns()
        if self.tracer.content:
            self.answer = Beginning(bill.feed)
            bill.feed = self.answer.feed

    def admit(self) -> None:
        """The limits of its caller have admitted it."""
        if self.steps:
            self.done()
        self.admitted = time.time_ns()

    def attempt(self, target: Target, candidates: int) -> TraceContext:
        """An attempt at a target begins, the best of so many; returns its place, which the server works for."""
        # As a place under its own: what differs is the span's id alone.
        place, now = (self.own or self.parent or self.context).child(), time.time_ns()
        if not self.noting:
            self.unnoted = (target, place, now, candidates)
            return place
        steps = self.steps
        if steps and not steps[-1].ended:
            steps[-1].ended = now
        steps.append(Step("", place, now, 0, target, candidates))
        return place

    def wait(self, planned: Plan, *, starting: bool) -> None:
        """The call waits, as no server was there for it. `starting` tells that a worker is on its way."""
        full = any(reason == FULL for _, reason in planned.left_out)
        self.begin(WAIT, why=AT_CAPACITY if full else STARTING if starting else NO_WORKER)

    def state(self, word: str) -> None:
        """What the call waits for is in another state."""
        step = self.steps[-1] if self.steps else None
        if step is not None and not step.ended and len(step.states) < _MOST_STATES:
            step.states = (*step.states, (time.time_ns(), word))

    def done(self, error: str = "", status: int = 0) -> None:
        """The step that goes on has ended; with an error, by its reason, it has failed."""
        self.note()
        step = self.steps[-1] if self.steps else None
        if step is not None and not step.ended:
            step.ended = time.time_ns()
            step.error, step.status = error, status
            self.retried = self.retried or (bool(error) and step.target is not None)


def trace(tracer: Tracer, request: Request, *, inside: bool) -> CallTrace:
    """The notes of a call that has come; `inside` tells that a part of the mesh has decided whether it is sampled."""
    parent = parent_in(request)
    if inside and parent is not None:
        return CallTrace(tracer, parent, None, request, time.time_ns(), parent.sampled or tracer.content)
    own = tracer.enter(parent)
    return CallTrace(tracer, parent, own, request, time.time_ns(), own.sampled or tracer.content)
