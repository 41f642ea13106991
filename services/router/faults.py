"""Which ends of calls the router's log tells."""

from __future__ import annotations

import logging
from typing import Final

from services.core.errors import CATALOGUE
from services.core.tracing import log_fields
from services.router.dispatcher import FinishedCall

log = logging.getLogger(__name__)

_FAULTS: Final = {reason.name.lower() for reason, kind in CATALOGUE.items() if kind.http >= 500}
"""What an operator is to hear of. Callers' own mistakes and limits stand in the records of usage: who asks on and on
would fill the log.
"""


def tell_fault(call: FinishedCall, outcome: str) -> None:
    """Tells of a call that has ended by a fault of the mesh."""
    if outcome in _FAULTS:
        request_id = call.request.header("x-request-id")
        said = "call %s ended with %s after %d attempts"
        log.warning(said, request_id, outcome, call.attempts, extra=log_fields(call.context))
