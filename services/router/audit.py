"""The audit log of calls: who had what done where, when and with which outcome, and nothing of what was said.

A Globus Compute endpoint of high assurance logs the tasks that it runs. The calls of a session are no tasks: what they
do shows here alone. Two lines of JSON tell of a call at a server: one is on the disk before the server sees anything of
it, one is written when it is over there. A call without its second line was under way when the router died.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable

import msgspec

from services.core.errors import Reason, ServiceError
from services.core.inference import Call, Inference, Receiver, Request
from services.router.targets import Server
from services.runtime.audit import AuditLog, stamp


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line. `attempt` is the same in the two lines of a call at a server; times are RFC 3339, in UTC."""

    time: str
    event: str
    attempt: str
    request_id: str
    principal: str
    operation: str
    model: str
    endpoint: str
    instance: str
    start: str = ""
    outcome: str = ""
    status: int = 0


class Record:
    """A call at a server, in the log. `open` has the server see it as soon as its first line is on the disk."""

    def __init__(self, log: CallAudit, entry: Entry) -> None:
        self.entry = entry
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._opening: _Opening | None = None

    def open(self, inference: Inference, request: Request, receiver: Receiver, credit: int) -> Call:
        """Opens the call, which fails as OVERLOADED if its line cannot be written: see `Inference.open`."""
        self._opening = _Opening(inference, request, receiver, credit)
        return self._opening

    def end(self, outcome: str, status: int) -> None:
        """Writes what became of it, and its HTTP status, 0 if it had none."""
        self._log.end(self.entry, outcome, status)

    def written(self, problem: str) -> None:
        """The first line is on the disk, or there is a problem; told by the writer's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
            self._loop.call_soon_threadsafe(self._go, problem)

    def _go(self, problem: str) -> None:
        if self._opening is not None:
            self._opening.go(problem)


class _Opening:
    """A call that is opened when its line has been written."""

    def __init__(self, inference: Inference, request: Request, receiver: Receiver, credit: int) -> None:
        self._inference = inference
        self._request = request
        self._receiver = receiver
        self._credit = credit
        self._call: Call | None = None
        self._left = False

    def go(self, problem: str) -> None:
        if self._left:
            return
        if problem:
            self._receiver.fail(_refused(problem))
        else:
            self._call = self._inference.open(self._request, self._receiver, self._credit)

    def grant(self, credit: int) -> None:
        """See `Call.grant`."""
        if self._call is not None:
            self._call.grant(credit)
        else:
            self._credit += credit

    def cancel(self) -> None:
        """See `Call.cancel`."""
        self._left = True
        if self._call is not None:
            self._call.cancel()


class CallAudit:
    """Writes calls to the router's audit log; see `services/runtime/audit.py` for how."""

    def __init__(self, log: AuditLog, *, now: Callable[[], str] = stamp) -> None:
        self._log = log
        self._now = now

    def begin(self, request: Request, *, caller: str, model: str, server: Server) -> Record:
        """Writes that a call goes to a server.

        Raises OVERLOADED where it cannot be written: then it must not go.
        """
        try:
            self._log.start()
        except OSError as error:
            raise _refused(f"{self._log.file} cannot be written: {error.strerror}") from error
        if problem := self._log.problem:
            raise _refused(problem)
        entry = Entry(
            self._now(),
            "begin",
            secrets.token_hex(8),
            request.header("x-request-id") or "",
            caller,
            request.operation,
            model,
            server.endpoint,
            server.instance,
            server.start,
        )
        record = Record(self, entry)
        self._log.append(entry, record.written, keep=False)
        return record

    def end(self, entry: Entry, outcome: str, status: int) -> None:
        """Writes what became of the call with this first line."""
        ended = msgspec.structs.replace(entry, time=self._now(), event="end", outcome=outcome, status=status)
        self._log.append(ended)


def _refused(why: str) -> ServiceError:
    message = f"Calls to this endpoint are audited, and {why}; make room there, it is tried anew each second."
    return ServiceError(Reason.OVERLOADED, message, retry_after=1.0)
