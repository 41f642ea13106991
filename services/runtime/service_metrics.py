"""What every service shows of itself: its version, its RPCs, and whether its audit log can be written."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from typing import Final

from services.core.measures import Family, Page, gauges
from services.rpc.meter import RpcMeter
from services.runtime.audit import AuditLog

_VERSION: Final = importlib.metadata.version("weft")


def show_service(page: Page | None, service: str, audit: AuditLog | None = None) -> RpcMeter | None:
    """Puts these onto a page; returns what is to count the service's RPCs. Without a page nothing is counted."""
    if page is None:
        return None
    meter = RpcMeter(service)

    def families() -> Iterable[Family]:
        yield gauges(
            "weft_build_info",
            "1, for each service that this process runs, with its version.",
            ("version", "service"),
            [((_VERSION, service), 1)],
        )
        yield from meter.families()
        if audit is not None:
            yield gauges(
                "weft_audit_writable",
                "1 if the service's audit log can be written, 0 if not: then acts are refused until it can.",
                ("service",),
                [((service,), 0 if audit.problem else 1)],
            )

    page.add(families)
    return meter
