"""Endpoints whose calls travel as tasks: what the launcher keeps attached to the routers in their workers' place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TaskWorker:
    """A worker whose vLLM answers, and whose calls travel as tasks. `serves` is the one principal whom it serves;
    `config`, in JSON, the user endpoint configuration that it was started with: another would lead to another node.
    """

    start: str
    endpoint: str
    slot: int
    serves: str = ""
    config: str = "{}"


class TaskWorkers(Protocol):
    """Serves such workers' calls at the routers, in their place."""

    def follow(self, workers: Iterable[TaskWorker]) -> None:
        """These are all that there are now. Those that are no more finish their calls."""

    async def close(self) -> None:
        """Leaves the routers."""


class NoTaskWorkers:
    """Serves none."""

    def follow(self, workers: Iterable[TaskWorker]) -> None:
        """See `TaskWorkers`."""

    async def close(self) -> None:
        """See `TaskWorkers`."""
