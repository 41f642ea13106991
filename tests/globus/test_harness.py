"""The harness itself: the real SDK and real agents against the emulated service."""

from __future__ import annotations

from globus_compute_sdk import Client, Executor

from tests.globus.endpoint import EndpointAgent
from tests.globus.hosted import Hosted

FIRST_RESULT = 60


def whoami(word: str) -> dict[str, object]:
    import getpass
    import os

    return {"word": word, "user": getpass.getuser(), "job": os.environ.get("SLURM_JOB_ID", "")}


def test_a_task_runs_at_a_local_endpoint(hosted: Hosted, local_endpoint: EndpointAgent, account: str | None) -> None:
    with Executor(endpoint_id=local_endpoint.id) as executor:
        answer = executor.submit(whoami, "hello").result(FIRST_RESULT)
    assert answer["word"] == "hello"
    assert account is None or answer["user"] == account


def test_a_task_runs_in_a_slurm_job(hosted: Hosted, slurm_endpoint: EndpointAgent, account: str | None) -> None:
    with Executor(endpoint_id=slurm_endpoint.id, client=Client()) as executor:
        answer = executor.submit(whoami, "hello").result(FIRST_RESULT)
    assert answer["job"]
    assert answer["user"] == account
