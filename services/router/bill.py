"""What a call owes: what is reserved of its limits while it runs, what its answer says that it used, and its record."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from services.core.catalogue import Catalogue
from services.core.errors import Reason, ServiceError
from services.core.inference import Head, Request
from services.core.principal import Principal
from services.router.body import Wanted
from services.router.bounds import Bound, Reckoning, bound, edits_for, fitting, is_free
from services.router.claims import NOTHING, ClaimBook, Claims
from services.router.limits.limiter import Admission, Limiter
from services.router.splice import Edit
from services.router.usage_log import CallRecord
from services.router.usage_reader import Usage, UsageReader

log = logging.getLogger(__name__)

MAX_TOKENS_HEADER: Final = "x-weft-max-tokens"
"""Tells the caller which bound its answer got that it did not ask for."""

_OF_TOKENS: Final = frozenset({Reason.TOKENS_EXHAUSTED, Reason.TOKENS_ABOVE_LIMIT})
_BYTES_A_TOKEN: Final = 4
_BYTES_AN_EVENT: Final = 200
"""The usual reckoning for English, and for a streamed token of vLLM's: for records of what nobody has counted."""


@dataclass(frozen=True, slots=True)
class Accounting:
    """Opens bills. `clock` is in seconds since 1970. With `clamps`, answers that have no room are shortened."""

    limiter: Limiter
    record: Callable[[CallRecord], None]
    reckoning: Reckoning = field(default_factory=Reckoning)
    clamps: bool = False
    book: ClaimBook = field(default_factory=ClaimBook)
    clock: Callable[[], float] = time.time

    def open(self, principal: Principal, request: Request, catalogue: Catalogue) -> Bill:
        """A bill for a call that has come."""
        return Bill(self, principal, request, catalogue)


class Bill:
    """One call's. It is admitted for its caller, then at an endpoint, and closed exactly once, however it ends."""

    __slots__ = (
        "_accounting",
        "_answer",
        "_at_endpoint",
        "_bound",
        "_catalogue",
        "_closed",
        "_endpoint",
        "_first_byte",
        "_head",
        "_of_caller",
        "_pending",
        "_place",
        "_principal",
        "_request",
        "_route",
        "_started",
        "_streamed",
        "_task",
        "_wanted",
        "feed",
        "model",
        "reader",
        "record",
        "taken_out",
    )

    def __init__(self, accounting: Accounting, principal: Principal, request: Request, catalogue: Catalogue) -> None:
        self.model = ""
        self.reader = UsageReader()
        self.feed = self.reader.feed
        """Takes a chunk of the answer as it passes."""
        self.taken_out: Usage | None = None
        """Usage that the answer told, and that was taken out of it."""
        self.record: CallRecord | None = None
        """The call's, once it is closed."""
        self._accounting = accounting
        self._principal = principal
        self._request = request
        self._catalogue = catalogue
        self._started = accounting.clock()
        self._first_byte: float | None = None
        self._route = ""
        self._endpoint = self._place = ""
        self._streamed = False
        self._wanted: Wanted | None = None
        self._bound: Bound | None = None
        self._answer = 0
        self._of_caller: Admission | None = None
        self._at_endpoint: Admission | None = None
        self._pending: Claims = NOTHING
        self._task: asyncio.Task[None] | None = None
        self._head: Head | None = None
        self._closed = False

    # Admission

    def admit(self, wanted: Wanted) -> bool:
        """Admits it by its caller's limits and the route's. False: it must `ask`. Raises as `Limiter.admit` does, and
        FIELD_INVALID where a number that bounds it is none.
        """
        self._wanted = wanted
        self._streamed = wanted.stream
        route = self._catalogue.routes_by_model.get(self.model)
        self._route = route.name if route is not None else ""
        claims = self._accounting.book.of_caller(self._catalogue, self._principal, self._route)
        if not claims.items:
            return True
        self._of_caller = self._reserve(claims)
        return self._of_caller is not None

    def admit_at(self, catalogue: Catalogue, endpoint: str) -> bool:
        """Admits it by the limits of an endpoint, by name, and its cluster's, in place of another's. Raises as `admit`
        does.
        """
        if endpoint == self._place:
            return True
        self.leave()
        claims = self._accounting.book.of_endpoint(catalogue, self._principal, endpoint)
        if claims.items:
            self._at_endpoint = self._reserve(claims)
            if self._at_endpoint is None:
                return False
        self._endpoint = self._place = endpoint
        return True

    def leave(self) -> None:
        """It has not been served where it was, or will not be, and owes nothing there."""
        self._place = ""
        admission, self._at_endpoint = self._at_endpoint, None
        if admission is not None:
            admission.settle(0)

    def ask(self, then: Callable[[ServiceError | None], None], endpoint: str = "") -> None:
        """Asks the store, after one of the two has said False, and tells what became of it."""
        self._task = asyncio.get_running_loop().create_task(self._ask(then, endpoint), name="limits: admission")

    async def _ask(self, then: Callable[[ServiceError | None], None], endpoint: str) -> None:
        claims, error = self._pending, None
        try:
            admission = await self._reserve_later(claims)
        except ServiceError as refusal:
            error = refusal
        except Exception:
            log.exception("a call could not be admitted")
            error = ServiceError(Reason.LIMITS_UNAVAILABLE, retry_after=1.0)
        else:
            if self._closed:  # cancelled in the same turn of the loop
                admission.settle(0)
                return
            if endpoint:
                self._at_endpoint = admission
                self._endpoint = self._place = endpoint
            else:
                self._of_caller = admission
        self._task = None
        if not self._closed:
            then(error)

    def _reserve(self, claims: Claims) -> Admission | None:
        self._pending = claims
        limiter, name = self._accounting.limiter, self._principal.name
        try:
            return limiter.admit(claims.items, principal=name, tokens=self._tokens(claims))
        except ServiceError as error:
            with self._shortened(claims, error):
                return limiter.admit(claims.items, principal=name, tokens=self._tokens(claims))

    async def _reserve_later(self, claims: Claims) -> Admission:
        limiter, name = self._accounting.limiter, self._principal.name
        try:
            return await limiter.admit_later(claims.items, principal=name, tokens=self._tokens(claims))
        except ServiceError as error:
            with self._shortened(claims, error):
                return await limiter.admit_later(claims.items, principal=name, tokens=self._tokens(claims))

    def _tokens(self, claims: Claims) -> int:
        """The most that it may use, where tokens are limited."""
        if not claims.tokens or self._wanted is None:
            return 0
        if self._bound is None:
            request = self._request
            self._bound = bound(request.operation, request.body, self._wanted, self._accounting.reckoning)
            self._answer = self._bound.answer
        return self._bound.tokens_with(self._answer)

    @contextlib.contextmanager
    def _shortened(self, claims: Claims, error: ServiceError) -> Iterator[None]:
        """For a second try of a call without room, with a shorter answer. Raises the error if it cannot be shorter."""
        if not self._accounting.clamps or error.reason not in _OF_TOKENS or self._bound is None or not self._bound.keys:
            raise error
        room = self._accounting.limiter.room(claims.items, principal=self._principal.name)
        answer = fitting(self._bound, room) if room is not None else 0
        if error.reason is Reason.TOKENS_ABOVE_LIMIT:
            answer = max(answer, 1)  # has it no room now, it is to hear that it will have some
        if not 1 <= answer < self._answer:
            raise error
        before, self._answer = self._answer, answer
        try:
            yield
        except ServiceError:
            self._answer = before
            raise

    @property
    def edits(self) -> tuple[Edit, ...]:
        """What must be spliced into the body for the bound to hold."""
        if self._bound is None or self._wanted is None:
            return ()
        return edits_for(self._bound, self._wanted.fields, self._answer)

    # The answer

    def head(self, head: Head) -> Head:
        """The answer begins; returns how it does for the caller."""
        self._head = head
        self._first_byte = self._accounting.clock()
        return self.told(head)

    def told(self, head: Head) -> Head:
        """A head that tells the caller of its limits, too."""
        if self._of_caller is None and self._at_endpoint is None:
            return head
        headers = (self._of_caller or self._at_endpoint).headers  # type: ignore[union-attr]
        if self.edits:
            headers = (*headers, (MAX_TOKENS_HEADER, str(self._answer)))
        return Head(head.status, (*head.headers, *headers))

    def close(self, outcome: str, status: int, *, reached: bool) -> None:
        """The call has ended. `reached` tells whether a server had it, or has answered it: if one had, and nobody has
        heard what it used, it may have used all that was reserved.
        """
        if self._closed:
            return
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        usage, estimated = self._used(outcome, reached=reached)
        tokens = usage.input + usage.output
        for admission in (self._of_caller, self._at_endpoint):
            if admission is not None:
                admission.settle(tokens)
        self.record = self._record(outcome, status, usage, estimated=estimated)
        self._accounting.record(self.record)

    def _used(self, outcome: str, *, reached: bool) -> tuple[Usage, bool]:
        """What it used, and whether that is an estimate."""
        head = self._head
        if self.taken_out is not None:
            return self.taken_out, False
        if head is not None and (outcome == "ok" or self.reader.whole):
            found = self.reader.read(head)
            if found is not None:
                return found, False
        if not reached or (head is not None and head.status >= 400) or is_free(self._request.operation):
            return Usage(0, 0), False
        if self._bound is not None:
            return Usage(self._bound.prompt, self._answer * self._bound.texts), True
        passed = self.reader.passed // (_BYTES_AN_EVENT if self._streamed else _BYTES_A_TOKEN)
        return Usage(len(self._request.body) // _BYTES_A_TOKEN, passed), True

    def _record(self, outcome: str, status: int, usage: Usage, *, estimated: bool) -> CallRecord:
        principal, request = self._principal, self._request
        return CallRecord(
            request_id=request.header("x-request-id") or "",
            principal=principal.name,
            groups=tuple(sorted(principal.identity.groups)) if principal.identity.groups else (),
            model=self.model,
            route=self._route,
            endpoint=self._endpoint,
            operation=request.operation,
            outcome=outcome,
            status=status,
            started=self._started,
            first_byte=self._first_byte,
            ended=self._accounting.clock(),
            input_tokens=usage.input,
            output_tokens=usage.output,
            cached_tokens=usage.cached,
            estimated=estimated,
            streamed=self._streamed,
            credential_kind=principal.identity.kind.value,
        )
