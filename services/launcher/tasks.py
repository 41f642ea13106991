"""What the launcher needs of Globus Compute; `services/globus/tasks.py` has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from services.globus.errors import GlobusError

START_WORKER: Final = "functions/start-worker"
INFERENCE: Final = "functions/inference"
QUEUE_STATUS: Final = "functions/queue-status"
DEFAULT_CREDENTIALS: Final = "default"


class TaskState(Protocol):
    """How a task is: under way, or over with a result or an error."""

    @property
    def pending(self) -> bool:
        """Whether it is under way."""

    @property
    def result(self) -> Any:
        """What the function returned."""

    @property
    def error(self) -> GlobusError | None:
        """Why there is no result."""


class EndpointStatus(Protocol):
    """How an endpoint is, as the service tells it."""

    @property
    def online(self) -> bool:
        """Whether its agent is connected."""


class TaskRunner(Protocol):
    """Runs functions at Globus Compute endpoints. Everything raises `GlobusError`."""

    async def run(
        self,
        credentials: str,
        endpoint_uuid: str,
        function_uuid: str,
        payload: Mapping[str, Any],
        user_endpoint_config: Mapping[str, Any] | None = None,
        submitted: Callable[[str], None] = ...,
        happened: Callable[[str], None] = ...,
    ) -> Any:
        """What the function returns; `submitted` hears the task's id, `happened` what went wrong on the way and did not
        end it. Whoever is cancelled here leaves, and the task goes on.
        """

    async def allowed_functions(self, credentials: str, endpoint_uuid: str) -> frozenset[str] | None:
        """The functions that an endpoint allows; None if it allows all."""

    async def endpoint_status(self, credentials: str, endpoint_uuid: str) -> EndpointStatus:
        """How an endpoint is."""

    async def task_state(self, credentials: str, task_id: str) -> TaskState:
        """How a task is that was submitted by whomever."""

    async def close(self) -> None:
        """Ends everything here. Tasks under way go on at their endpoints."""
