"""A worker by tasks stays attached, whatever goes wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.core.catalogue import Catalogue
from services.core.errors import Reason, ServiceError
from services.launcher.bridge_worker import BridgeParts, BridgeWorker
from services.launcher.task_workers import TaskWorker


class Enroller:
    """Fails in one way after another."""

    def __init__(self, *fails: Exception) -> None:
        self.fails = list(fails)
        self.asked = asyncio.Event()

    async def issue(self, start: str, endpoint: str, *, lifetime: float, serves: str) -> str:
        if self.fails:
            raise self.fails.pop(0)
        self.asked.set()
        raise ServiceError(Reason.AUTH_UNAVAILABLE)

    async def revoke(self, start: str) -> None:
        pass


async def test_a_fault_of_ours_does_not_end_it_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.launcher.bridge_worker._FIRST_PAUSE", 0.0)
    enroller = Enroller(ServiceError(Reason.AUTH_UNAVAILABLE), RuntimeError("a bug"))
    nothing: Any = None
    parts = BridgeParts(nothing, nothing, nothing, enroller, Catalogue, (), lifetime=60, grace=1)
    worker = BridgeWorker(TaskWorker("start", "clusters/c/endpoints/e", 0), parts)
    running = asyncio.create_task(worker.run())
    await asyncio.wait_for(enroller.asked.wait(), 10)
    await worker.leave()
    await running
