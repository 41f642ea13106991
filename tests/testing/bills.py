"""Bills of calls whose callers have no limits, or those that a test gives them, for tests of the router."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from services.core.inference import Request
from services.core.principal import Principal
from services.core.quota import Quota, SubjectQuota
from services.router.bill import Accounting, Bill
from services.router.body import read_body
from services.router.limits.limiter import Limiter
from services.router.roster import Roster
from services.router.usage_log import CallRecord


class Books:
    """An accounting whose records are kept for the test."""

    def __init__(self, clock: Callable[[], float], **options: Any) -> None:
        self.records: list[CallRecord] = []
        self.limiter = Limiter(clock=clock)
        self.accounting = Accounting(self.limiter, self.records.append, clock=clock, **options)

    def bill(self, roster: Roster, request: Request, model: str, principal: Principal | str = "users/alice") -> Bill:
        """The bill of a call that its caller's limits have admitted."""
        if isinstance(principal, str):
            principal = Principal(principal)
        assert roster.catalogue is not None
        bill = self.accounting.open(principal, request, roster.catalogue)
        bill.model = model
        assert bill.admit(read_body(request.body))
        return bill


def limited(name: str, **quota: Any) -> Principal:
    """A principal with a quota."""
    return Principal(name, quotas=(SubjectQuota(name, Quota(**quota)),))
