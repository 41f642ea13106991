"""One generation call: the sequence in the engine, and its answer on the connection."""

from __future__ import annotations

from collections.abc import Callable

from services.sim.answers import Answer
from services.sim.engine import Engine, Sequence
from services.sim.errors import api_error
from services.sim.faults import Fault
from services.sim.http import Connection
from services.sim.render import DONE, Script, error_event

#: Tokens that go to the transport before it is asked again whether the client keeps up.
_BATCH = 64

_BROKEN = "EngineCore encountered an issue. See stack trace (above) for the root cause."


class WholeCall:
    """A call whose answer is sent at once when its last token is there."""

    def __init__(
        self,
        connection: Connection,
        engine: Engine,
        answer: Answer,
        render: Callable[[Answer, int], bytes],
        fault: Fault | None,
    ) -> None:
        self._connection = connection
        self._answer = answer
        self._render = render
        self._fault = fault
        self._sequence = _sequence(answer, self._progress, fault, streamed=False)
        engine.submit(self._sequence)
        connection.on_gone = lambda: engine.cancel(self._sequence)

    def _progress(self) -> None:
        if self._fault and self._fault.die_after_tokens is not None:
            self._connection.break_off()
        elif self._fault and self._fault.error_after_tokens is not None:
            self._connection.respond(500, api_error(500, _BROKEN).body)
        else:
            self._connection.respond(200, self._render(self._answer, self._sequence.cached_tokens))


class StreamedCall:
    """A call whose tokens are sent as they come.

    The engine runs on whether or not the client reads, as vLLM's does. Tokens are turned into bytes only when the
    client has room for them, so a slow reader costs no memory.
    """

    def __init__(
        self, connection: Connection, engine: Engine, answer: Answer, script: Script, fault: Fault | None
    ) -> None:
        self._connection = connection
        self._script = script
        self._fault = fault
        self._sent = 0
        self._opened = False
        self._sequence = _sequence(answer, self._progress, fault, streamed=True)
        engine.submit(self._sequence)
        connection.on_gone = lambda: engine.cancel(self._sequence)
        connection.on_writable = self._progress
        connection.start_stream(b"text/event-stream; charset=utf-8")

    def _progress(self) -> None:
        sequence, connection = self._sequence, self._connection
        while connection.writable and self._sent < sequence.generated:
            upto = min(sequence.generated, self._sent + _BATCH)
            events = self._script.tokens(self._sent, upto)
            if not self._opened:
                self._opened = True
                events = self._script.opening + events
            self._sent = upto
            connection.write(events)
        if sequence.finished and self._sent == sequence.generated:
            self._end()

    def _end(self) -> None:
        if self._fault and self._fault.die_after_tokens is not None:
            self._connection.break_off()
            return
        if self._fault and self._fault.error_after_tokens is not None:
            self._connection.write([error_event(_BROKEN), DONE])
        else:
            self._connection.write(self._script.closing(self._sequence.cached_tokens))
        self._connection.end_stream()


def _sequence(answer: Answer, progress: Callable[[], None], fault: Fault | None, *, streamed: bool) -> Sequence:
    """The engine's part of a call. A fault that ends it after some tokens makes the sequence so much shorter."""
    tokens = answer.longest
    stall_at = fault.stall_after_tokens if fault else None
    if fault and fault.cut is not None and stall_at is None:
        tokens = min(tokens, fault.cut)
    return Sequence(answer.prompt, tokens, progress, len(answer.choices), streamed, stall_at)
