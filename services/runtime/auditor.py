"""Acts and refusals as lines of an audit log; see `services/rpc/audit.py` for what they are."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from services.core.errors import ServiceError
from services.core.inference import Request
from services.core.principal import Principal
from services.rpc.audit import Act, Refusal, Who, clipped, who, whom
from services.runtime.audit import FILE, AuditLog, refused, stamp
from services.runtime.floods import Floods

log = logging.getLogger(__name__)

_REFUSAL: Final = "Acts are audited"


class ActLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """`act` before it is done, `done` after, `noted` where one line tells both. Two of one act have the same `id`; one
    without the second was under way when the process died.
    """

    time: str
    event: str
    id: str
    principal: str
    credential: str
    subject: str
    peer: str
    method: str
    resource: str
    request_id: str
    outcome: str = ""
    result: str = ""
    detail: str = ""


class RefusalLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A refusal, told at once; or with `count`, how many more of the same came within the minute that followed. Those
    of which too many different ones came within a minute stand in one line without names.
    """

    time: str
    event: str
    principal: str = ""
    credential: str = ""
    subject: str = ""
    peer: str = ""
    method: str = ""
    model: str = ""
    reason: str = ""
    request_id: str = ""
    count: int = 0


class LogAuditor:
    """Writes to a log. `clock` gives seconds, for the summing up of floods."""

    def __init__(self, log: AuditLog, clock: Callable[[], float] = time.monotonic) -> None:
        self.log = log
        self._clock = clock
        self._floods: Floods[Refusal] = Floods()
        self._counting = threading.Lock()  # The log's thread tells what the loop has counted.
        log.on_idle(self._tell_due)

    async def begin(self, act: Act) -> str:
        """See `Auditor.begin`."""
        identity = secrets.token_hex(8)
        try:
            problem = await self.log.commit(_line("act", identity, act))
        except asyncio.CancelledError:
            self.end_later(act, identity, "cancelled")  # else it would read as if it might have been done
            raise
        if problem:
            raise refused(_REFUSAL, problem)
        return identity

    async def end(self, act: Act, begun: str, outcome: str, result: str = "") -> None:
        """See `Auditor.end`."""
        await self.log.commit(_line("done", begun, act, outcome, result), keep=True)

    def end_later(self, act: Act, begun: str, outcome: str) -> None:
        """See `Auditor.end_later`."""
        self.log.append(_line("done", begun, act, outcome))

    def note(self, act: Act, outcome: str, result: str = "") -> None:
        """See `Auditor.note`."""
        self.log.append(_line("noted", secrets.token_hex(8), act, outcome, result))

    def refuse(self, refusal: Refusal, request_id: str) -> None:
        """See `Auditor.refuse`."""
        with self._counting:
            first = self._floods.note(refusal, self._clock())
        if first:
            self.log.append(_refusal(refusal, request_id=request_id))

    def refuse_call(self, principal: Principal | None, request: Request, model: str, error: ServiceError) -> None:
        """A call to a model was refused."""
        whose = whom(error, None, "") if principal is None else who(principal, "")
        refusal = Refusal(whose, clipped(request.operation), error.reason.name.lower(), clipped(model))
        self.refuse(refusal, clipped(request.header("x-request-id") or ""))

    async def close(self) -> None:
        """Tells what was counted, and closes the log."""
        self._tell_due(math.inf)
        await asyncio.to_thread(self.log.close)

    def _tell_due(self, now: float | None = None) -> None:
        with self._counting:
            told, others = self._floods.due(self._clock() if now is None else now)
        for refusal, count in told:
            self.log.append(_refusal(refusal, count=count))
        if others:
            self.log.append(RefusalLine(stamp(), "refused", count=others))


def open_auditor(home: Path, service: str, file: str = "") -> LogAuditor:
    """The audit log of a service, in a file in the home; empty means its own there. One that cannot be opened now is
    tried again at each act: until then, acts are refused, and all else goes on.
    """
    audit_log = AuditLog(home / (file or f"{service}/{FILE}"), service=service)
    try:
        audit_log.start()
    except OSError as error:
        log.error("%s cannot be written: %s; acts are refused until it can", audit_log.file, error.strerror or error)
    return LogAuditor(audit_log)


def _line(event: str, identity: str, act: Act, outcome: str = "", result: str = "") -> ActLine:
    what = (act.method, act.resource, act.request_id, outcome, result, act.detail)
    return ActLine(stamp(), event, identity, *_who(act.who), *what)


def _refusal(refusal: Refusal, *, request_id: str = "", count: int = 0) -> RefusalLine:
    return RefusalLine(
        stamp(),
        "refused",
        *_who(refusal.who),
        refusal.method,
        refusal.model,
        refusal.reason,
        request_id,
        count,
    )


def _who(who: Who) -> tuple[str, str, str, str]:
    return who.principal, who.credential, who.subject, who.peer
