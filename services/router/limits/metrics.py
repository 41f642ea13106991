"""The limiter's metrics. Labels come from bounded sets, and name no principal."""

from __future__ import annotations

import functools

from prometheus_client import Counter, Gauge

from services.core.errors import Reason

ADMITTED = Counter("weft_router_limits_admitted", "Calls that were admitted, with limits or without.")
REFUSED = Counter("weft_router_limits_refused", "Calls that were refused, by why.", ("reason",))
SUBJECTS = Gauge("weft_router_limits_rules", "Rules of subjects that are counted here at present.")
ROUND_TRIPS = Counter("weft_router_limits_store_round_trips", "Questions to the store, by outcome.", ("outcome",))
STORE_UP = Gauge("weft_router_limits_store_up", "Whether the store answers (1) or is away (0); 1 in memory.")
LEASED = Gauge("weft_router_limits_leases", "Leases of quota that are outstanding at this router.")


def count_refused(reason: Reason) -> None:
    """Notes a call that was not admitted."""
    _refused(reason.name.lower()).inc()


@functools.cache
def _refused(reason: str) -> Counter:
    return REFUSED.labels(reason)
