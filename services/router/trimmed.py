"""The rest of a streamed answer, from which what the caller has not asked for is taken out.

Bytes that are withheld cost the client no credit, so the server gets it back. Bytes that are added to an event that
waited are paid for by the client: what it does not take yet waits for its next grant, and with it the answer's end.
"""

from __future__ import annotations

from typing import Protocol

from services.core.errors import ServiceError
from services.core.inference import Call, Head
from services.router.targets import Server
from services.router.unasked import Unasked
from services.router.usage_reader import Usage


class TrimmedOwner(Protocol):
    """The call whose answer it is."""

    @property
    def room(self) -> int:
        """Bytes that its client takes now; 0 once it has left."""

    def touch(self) -> None:
        """The server is at work, though nothing of it passes."""

    def data(self, chunk: bytes) -> None:
        """Bytes of the answer."""

    def end(self) -> None:
        """The answer is whole."""

    def fail(self, error: ServiceError) -> None:
        """The answer broke off."""

    def freed(self, server: Server) -> None:
        """A server that was full has room again."""


class Trimmed:
    """Takes an answer for its call: the owner of the attempt from its first byte on."""

    def __init__(self, owner: TrimmedOwner, server: Call) -> None:
        self._owner = owner
        self._server = server
        self._unasked = Unasked()
        self._owed = b""
        self._ended = False

    @property
    def usage(self) -> Usage | None:
        """What was taken out."""
        return self._unasked.usage

    @property
    def owes(self) -> bool:
        """Whether something waits for the client to take more."""
        return bool(self._owed)

    def granted(self) -> None:
        """The client takes more."""
        room = self._owner.room
        piece, self._owed = self._owed[:room], self._owed[room:]
        if piece:
            self._owner.data(piece)
        if self._ended and not self._owed:
            self._ended = False
            self._owner.end()

    def data(self, chunk: bytes) -> None:
        """See `AttemptOwner.data`."""
        passed = self._unasked.feed(chunk)
        if passed is chunk and not self._owed:
            self._owner.data(chunk)
            return
        self._owner.touch()
        self._pass(passed)
        if len(passed) < len(chunk):
            self._server.grant(len(chunk) - len(passed))

    def _pass(self, chunk: bytes) -> None:
        self._owed += chunk
        if self._owed:
            self.granted()

    def end(self) -> None:
        """See `AttemptOwner.end`."""
        self._owed += self._unasked.end()
        self._ended = True
        self.granted()

    def fail(self, error: ServiceError) -> None:
        """See `AttemptOwner.fail`."""
        self._pass(self._unasked.end())
        self._owner.fail(error)

    def freed(self, server: Server) -> None:
        """See `AttemptOwner.freed`."""
        self._owner.freed(server)

    def attempt_failed(self, attempt: object, error: ServiceError) -> None:
        """See `AttemptOwner.attempt_failed`; the first byte has come, so that this cannot be."""
        self._owner.fail(error)

    def first_byte(self, head: Head) -> None:
        """See `AttemptOwner.first_byte`; it has come already."""
