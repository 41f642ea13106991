"""One attempt of a call at one server: what may still move elsewhere, and what is committed."""

from __future__ import annotations

import itertools
from typing import Final, Protocol

from services.core.errors import Reason, ServiceError
from services.core.headers import TO_CLIENT, select
from services.core.inference import Call, Head, Request
from services.router.audit import Record
from services.router.targets import Server

RETRIED_STATUS: Final = frozenset({500, 502, 503})
"""What a vLLM answers whose engine has died, or whose queue is full. Another may do better; the last one's answer
stands.
"""

_OF_CALLERS: Final = frozenset({401, 403, 429})
"""The router alone says these: a worker's would stand in the audit log as a refusal of the caller."""

_sequence = itertools.count(1)


class AttemptOwner(Protocol):
    """The call that makes the attempt."""

    def attempt_failed(self, attempt: Attempt, error: ServiceError) -> None:
        """It failed before its first byte."""

    def first_byte(self, head: Head) -> None:
        """From here on the client has the answer of this attempt."""

    def data(self, chunk: bytes) -> None:
        """Bytes of the answer."""

    def end(self) -> None:
        """The answer is whole."""

    def fail(self, error: ServiceError) -> None:
        """The answer broke off after its first byte."""

    def freed(self, server: Server) -> None:
        """A server that was full has room again."""


class Attempt:
    """One attempt at one server: the receiver of its answer."""

    __slots__ = ("_committed", "_cost", "_head", "_may_move", "_over", "_owner", "_record", "call", "server", "status")

    call: Call

    def __init__(
        self, owner: AttemptOwner, server: Server, record: Record | None, *, may_move: bool, cost: int
    ) -> None:
        """`record` is what the audit log is told of it, if anything; `cost` what it adds to the server's burden."""
        self.server = server
        self.status = 0
        """What the server has answered with, whether or not it stands."""
        self._owner = owner
        self._record = record
        self._may_move = may_move
        self._cost = cost
        self._head: Head | None = None
        self._committed = False
        self._over = False
        server.open_calls += 1
        server.outstanding_tokens += cost
        server.last_call = next(_sequence)

    def open(self, request: Request, credit: int) -> None:
        """Gives the server the call."""
        if self._record is None:
            self.call = self.server.inference.open(request, self, credit)
        else:
            self.call = self._record.open(self.server.inference, request, self, credit)

    def head(self, head: Head) -> None:
        """Held back until there is a byte: up to then the call may still move."""
        self.status = head.status
        if self._may_move and head.status in RETRIED_STATUS:
            self._refuse(f"The model server answered with status {head.status}.")
            return
        try:
            # Workers do so themselves, but they are others' machines.
            headers = select(head.headers, TO_CLIENT)
        except ServiceError:
            self._refuse("The model server answered with a header that is none.")
        else:
            self._head = head if len(headers) == len(head.headers) else Head(head.status, headers)

    def _refuse(self, why: str) -> None:
        self._close()
        self.call.cancel()
        self._owner.attempt_failed(self, ServiceError(Reason.UPSTREAM_BROKEN, why))

    def data(self, chunk: bytes) -> None:
        """See `Receiver.data`."""
        if not self._committed:
            self._commit()
        if not self._over:  # The client may leave at the sight of the head.
            self._owner.data(chunk)

    def end(self) -> None:
        """See `Receiver.end`."""
        if not self._committed:
            self._commit()
        if not self._over:
            self._close()
            self._owner.end()

    def fail(self, error: ServiceError) -> None:
        """See `Receiver.fail`. What a server says of limits and of who called is not its to say."""
        reason = Reason.UPSTREAM_BROKEN if error.kind.http in _OF_CALLERS else error.reason
        error = ServiceError(reason, error.message, param=error.param, retry_after=error.retry_after)
        self._close()
        if self._committed:
            self._owner.fail(error)
        else:
            self._owner.attempt_failed(self, error)

    def hand_over(self, owner: AttemptOwner) -> None:
        """Another takes the rest of the answer."""
        self._owner = owner

    def abandon(self) -> None:
        """The client has left, or time is up."""
        if not self._over:
            self._close()
            self.call.cancel()

    def write_outcome(self, outcome: str, status: int) -> None:
        """Tells the audit log what became of the call at this server."""
        record, self._record = self._record, None
        if record is not None:
            record.end(outcome, status)

    def _commit(self) -> None:
        if self._head is not None:
            self._committed = True
            self._owner.first_byte(self._head)

    def _close(self) -> None:
        if not self._over:
            self._over = True
            server = self.server
            server.open_calls -= 1
            server.outstanding_tokens -= self._cost
            server.ended_calls += 1
            if server.open_calls == server.max_calls - 1:
                self._owner.freed(server)
