"""One RPC under the eyes of the audit log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

from services.core.errors import ServiceError
from services.core.principal import Principal
from services.rpc.acts import Kind, kind_of
from services.rpc.audit import Act, Auditor, Refusal, clipped, detail_of, resource_of, who, whom

_REFUSED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class Watch:
    """Tells the log, if there is one, of an act and of a refusal. The boundary sets `principal` when it is known, and
    `admitted` when the method itself has begun.
    """

    __slots__ = ("_audit", "_context", "_kind", "_method", "admitted", "principal")

    def __init__(self, audit: Auditor | None, method: str, context: Any) -> None:
        self.principal: Principal | None = None
        self.admitted = False
        self._audit = audit
        self._method = method
        self._context = context
        self._kind = kind_of(method)

    async def over(self, behaviour: Callable[[Any, Any], Awaitable[Any]], request: Any, context: Any) -> Any:
        """Has a method answer. Raises what it raises, and OVERLOADED for an act that cannot be written."""
        self.admitted = True
        if self._audit is None or self._kind not in (Kind.ACT, Kind.NOTED):
            return await behaviour(request, context)
        caller, names = who(self.principal, context.peer()), resource_of(request)
        act = Act(caller, self._method, names, self._request_id(), detail_of(request))
        begun = await self._audit.begin(act) if self._kind is Kind.ACT else ""
        try:
            answer = await behaviour(request, context)
        except BaseException as error:
            self._tell(self._audit, act, begun, _outcome(error))
            raise
        if begun:
            await self._audit.end(act, begun, "ok", _made(request, answer))
        else:
            self._audit.note(act, "ok", _made(request, answer))
        return answer

    def failed(self, error: ServiceError) -> None:
        """The RPC ends with this error."""
        calls = self.admitted and self._kind is Kind.CALLS
        if self._audit is not None and error.kind.http in _REFUSED and not calls:
            # Who was let in is known: an unknown credential behind that is one that they asked about.
            caller = None if self.admitted and error.kind.http == HTTPStatus.UNAUTHORIZED else self.principal
            refused = whom(error, caller, self._context.peer())
            refusal = Refusal(refused, self._method, error.reason.name.lower())
            self._audit.refuse(refusal, self._request_id())

    @staticmethod
    def _tell(audit: Auditor, act: Act, begun: str, outcome: str) -> None:
        """Without waiting for the disk: nothing was changed, or whoever asked has left."""
        if begun:
            audit.end_later(act, begun, outcome)
        else:
            audit.note(act, outcome)

    def _request_id(self) -> str:
        for key, value in self._context.invocation_metadata() or ():
            if key == "x-request-id":
                return clipped(str(value))
        return ""


def _outcome(error: BaseException) -> str:
    if isinstance(error, ServiceError):
        return error.reason.name.lower()
    return "internal" if isinstance(error, Exception) else "cancelled"


def _made(request: Any, answer: Any) -> str:
    """The name of what was made, where the request did not name it."""
    name = resource_of(answer)
    return "" if name == resource_of(request) else name
