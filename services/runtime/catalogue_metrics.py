"""How old what a service knows of the registry is."""

from __future__ import annotations

import time
from collections.abc import Iterable

from services.core.measures import Family, gauges
from services.rpc.catalogue import CatalogueWatcher


def catalogue_age(service: str, registry: CatalogueWatcher) -> Iterable[Family]:
    """What there is to show of a service's catalogue."""
    age = time.monotonic() - registry.heard_at
    yield gauges(
        "weft_catalogue_age_seconds",
        "How long ago the registry last said what exists, or that nothing has changed; it does so every few seconds.",
        ("service",),
        [((service,), age)],
    )
