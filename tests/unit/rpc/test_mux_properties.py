"""Whatever order things happen in, the multiplexer keeps its promises: two ends, with messages that arrive late."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.core.errors import Reason, ServiceError
from services.core.inference import Call
from services.rpc.limits import INLINE_BODY_BYTES, MuxLimits
from tests.testing.streams import Answer, Answerer, End, Served, assert_forgotten, request, settle

LIMITS = MuxLimits(
    max_calls=6,
    max_body=400_000,
    body_credit=90_000,
    max_buffered_bodies=600_000,
    outbox_soft=50_000,
    outbox_hard=100_000_000,
)
# No period that a lost or repeated chunk could hide behind.
PATTERN = b"".join(i.to_bytes(3, "big") for i in range(300_000))
BODIES = st.sampled_from([0, 1, 500, INLINE_BODY_BYTES, INLINE_BODY_BYTES + 1, 90_001, 250_000, 400_000, 400_001])
CREDITS = st.sampled_from([0, 1, 100, 20_000, 70_000, 300_000])
WHICH = st.integers(0, 1000)


@dataclass
class Caller:
    """A call, and what whoever opened it remembers."""

    number: int
    body: bytes
    answer: Answer
    call: Call
    granted: int


class Stream(RuleBasedStateMachine):
    """Random interleavings of everything that can happen on a stream."""

    callers = Bundle("callers")

    def __init__(self) -> None:
        super().__init__()
        self.answerer = Answerer()
        self.client, self.server = End(), End(self.answerer, LIMITS)
        self.opened: list[Caller] = []
        self.finished: dict[int, ServiceError | None] = {}
        self.gone = False

    @initialize(introduced=st.sampled_from([True, True, True, False]))
    def introduce(self, introduced: bool) -> None:
        if introduced:
            settle(self.client, self.server)

    # Who calls

    @rule(target=callers, size=BODIES, credit=CREDITS)
    def open(self, size: int, credit: int) -> Caller:
        number = len(self.opened)
        body = PATTERN[number : number + size]
        answer, call = self.client.call(request(body, operation=f"/{number}"), credit)
        caller = Caller(number, body, answer, call, credit)
        self.opened.append(caller)
        return caller

    @rule(caller=callers, credit=CREDITS)
    def grant(self, caller: Caller, credit: int) -> None:
        caller.granted += credit
        caller.call.grant(credit)

    @rule(caller=callers)
    def cancel(self, caller: Caller) -> None:
        caller.answer.left = True
        caller.call.cancel()

    # Who answers

    def _live(self, which: int) -> Served | None:
        live = [call for call in self.answerer.calls if not call.cancelled and self._number(call) not in self.finished]
        return live[which % len(live)] if live else None

    def _number(self, served: Served) -> int:
        return int(served.request.operation[1:])

    @rule(which=WHICH)
    def head(self, which: int) -> None:
        served = self._live(which)
        if served is not None and not served.answered:
            served.head()

    @rule(which=WHICH, size=st.sampled_from([1, 7, 300, 16_384, 60_000, 200_000]))
    def data(self, which: int, size: int) -> None:
        served = self._live(which)
        if served is not None and served.answered and served.credit > 0:
            start = len(served.sent) + self._number(served)
            served.data(PATTERN[start : start + min(size, served.credit)])

    @rule(which=WHICH)
    def end(self, which: int) -> None:
        served = self._live(which)
        if served is not None and served.answered:
            self.finished[self._number(served)] = None
            served.receiver.end()

    @rule(which=WHICH)
    def fail(self, which: int) -> None:
        served = self._live(which)
        if served is not None:
            error = ServiceError(Reason.UPSTREAM_BROKEN, "broken", param="p", retry_after=2.5)
            self.finished[self._number(served)] = error
            served.receiver.fail(error)

    # The wire

    @precondition(lambda self: not self.gone)
    @rule()
    def client_sends(self) -> None:
        self.client.send(self.server)

    @precondition(lambda self: not self.gone)
    @rule()
    def server_sends(self) -> None:
        self.server.send(self.client)

    @precondition(lambda self: self.server.arriving)
    @rule()
    def server_hears(self) -> None:
        self.server.deliver()

    @precondition(lambda self: self.client.arriving)
    @rule()
    def client_hears(self) -> None:
        self.client.deliver()

    @rule()
    def run_deferred(self) -> None:
        self.client.run_deferred()
        self.server.run_deferred()

    @rule()
    def settle(self) -> None:
        settle(self.client, self.server)

    @precondition(lambda self: not self.gone and len(self.opened) > 4)
    @rule()
    def drain(self) -> None:
        self.server.mux.drain(5.0)

    @precondition(lambda self: not self.gone and len(self.opened) > 4)
    @rule(both=st.booleans())
    def disconnect(self, both: bool) -> None:
        self.gone = True
        self.client.arriving.clear()
        self.server.arriving.clear()
        self.client.mux.close(ServiceError(Reason.WORKER_LOST))
        self.server.mux.close(ServiceError(Reason.ROUTER_UNAVAILABLE))
        assert self.client.mux.open_calls == 0
        assert all(call.cancelled for call in self.answerer.calls if self._number(call) not in self.finished)

    # What holds at every moment

    @invariant()
    def nothing_is_changed(self) -> None:
        """Bodies arrive as they were sent, so far: nothing lost, repeated or reordered."""
        for served in self.answerer.calls:
            number = self._number(served)
            caller = self.opened[number]
            assert served.request.body == caller.body
            assert served.sent.startswith(caller.answer.body)
            assert len(served.sent) + served.credit <= caller.granted

    @invariant()
    def answers_end_once(self) -> None:
        for caller in self.opened:
            number, answer = caller.number, caller.answer
            if answer.ends and number in self.finished and not self.gone:
                expected = self.finished[number]
                assert answer.reason == (expected and expected.reason)
                if expected is not None and answer.error is not None:
                    assert (answer.error.message, answer.error.param) == ("broken", "p")
                    assert answer.error.retry_after == 2.5
                else:
                    assert answer.body == self._served(number).sent

    def _served(self, number: int) -> Served:
        return next(served for served in self.answerer.calls if self._number(served) == number)

    @invariant()
    def buffers_are_bounded(self) -> None:
        incoming = self.server.mux._incoming
        assert incoming is not None
        waiting = self.server.mux._outbox.data_bytes
        granted = sum(caller.granted for caller in self.opened)
        assert 0 <= waiting <= granted
        assert 0 <= incoming.buffered_bodies <= LIMITS.max_buffered_bodies
        assert incoming.withheld.keys() <= incoming.calls.keys()
        bodies = sum(len(caller.body) for caller in self.opened)
        assert 0 <= self.client.mux._outbox.data_bytes <= bodies

    def teardown(self) -> None:
        """In the end every call has ended, and is forgotten."""
        settle(self.client, self.server)
        which = 0
        while (served := self._live(which)) is not None:
            if not served.answered:
                served.head()
            self.finished[self._number(served)] = None
            served.receiver.end()
            settle(self.client, self.server)
        refusals = {
            Reason.BODY_TOO_LARGE,
            Reason.OVERLOADED,
            Reason.WORKER_LOST,
            Reason.SHUTTING_DOWN,
            Reason.UPSTREAM_BROKEN,
        }
        for caller in self.opened:
            assert caller.answer.left or len(caller.answer.ends) == 1
            assert caller.answer.reason is None or caller.answer.reason in refusals
        self.nothing_is_changed()
        self.answers_end_once()
        assert_forgotten(self.client, self.server)


TestStream = Stream.TestCase
TestStream.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
