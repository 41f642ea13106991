"""Asks the service how tasks are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import globus_sdk
from globus_compute_sdk import Client
from globus_compute_sdk.errors import ComputeError, TaskExecutionFailed

from services.globus.errors import GlobusError, Kind, explain

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TaskState:
    """How a task is: under way, or over with a result or an error."""

    pending: bool
    result: Any = None
    error: GlobusError | None = None


def ask(client: Client, task_ids: Sequence[str]) -> dict[str, TaskState]:
    """The states of these tasks. Blocks. Raises what the SDK raises when the service does not answer."""
    return {task_id: _ask_one(client, task_id) for task_id in task_ids}


def _ask_one(client: Client, task_id: str) -> TaskState:
    try:
        answer = client.get_task(task_id)
    except TaskExecutionFailed as error:
        return TaskState(pending=False, error=explain(error))
    except ComputeError as error:
        sentence = f"The task's answer cannot be read: {error}."
        return TaskState(pending=False, error=GlobusError(Kind.TASK_FAILED, sentence))
    except globus_sdk.GlobusAPIError as error:
        if error.http_status != 404:
            raise
        sentence = f"Globus Compute does not know the task {task_id} any more."
        return TaskState(pending=False, error=GlobusError(Kind.TASK_FAILED, sentence, ""))
    finally:
        client._task_status_table.pop(task_id, None)  # the SDK would keep every result for ever
    if answer["pending"]:
        return TaskState(pending=True)
    if "result" not in answer:
        sentence = f"The task ended without a result: {answer.get('reason', 'unknown')}."
        return TaskState(pending=False, error=GlobusError(Kind.TASK_FAILED, sentence))
    return TaskState(pending=False, result=answer["result"])
