"""The harness itself: the real SDK and real agents against the emulated service."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from globus_compute_sdk import Client, Executor
from globus_compute_sdk.errors import TaskExecutionFailed
from globus_compute_sdk.serialize import PureSourceTextInspect
from globus_sdk import ClientApp, GlobusAPIError

from tests.globus.endpoint import EndpointAgent
from tests.globus.hosted import Hosted, Identity
from tests.vllm.processes import Deadline

FIRST_RESULT = 180


def whoami(word: str) -> dict[str, object]:
    import getpass
    import os

    return {"word": word, "user": getpass.getuser(), "job": os.environ.get("SLURM_JOB_ID", "")}


def client(identity: Identity | None = None) -> Client:
    """The SDK as Weft uses it: functions travel as source."""
    app = ClientApp("tests", client_id=identity.id, client_secret=identity.secret) if identity else None
    return Client(code_serialization_strategy=PureSourceTextInspect(), app=app)


@pytest.fixture(autouse=True)
def _pythons_may_differ() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@pytest.fixture(autouse=True)
def _well(hosted: Hosted) -> Iterator[None]:
    yield
    hosted.be_well()


def call(endpoint: EndpointAgent, *, identity: Identity | None = None) -> Any:
    """What `whoami` gives there."""
    with Executor(endpoint_id=endpoint.id, client=client(identity)) as executor:
        return executor.submit(whoami, "hello").result(FIRST_RESULT)


def test_a_task_runs_at_a_local_endpoint(local_endpoint: EndpointAgent, account: str | None) -> None:
    answer = call(local_endpoint)
    assert answer["word"] == "hello"
    assert account is None or answer["user"] == account


def test_a_task_runs_in_a_slurm_job(slurm_endpoint: EndpointAgent, account: str | None) -> None:
    answer = call(slurm_endpoint)
    assert answer["job"]
    assert answer["user"] == account


def test_tasks_of_two_people_run_under_their_accounts(
    shared_endpoint: EndpointAgent, people: dict[str, Identity]
) -> None:
    for name in ("alice", "bob"):
        assert call(shared_endpoint, identity=people[name])["user"].startswith(f"weft-{name}-")


def test_somebody_without_an_account_is_refused_by_the_agent(
    shared_endpoint: EndpointAgent, people: dict[str, Identity]
) -> None:
    with pytest.raises(TaskExecutionFailed, match="local user"):
        call(shared_endpoint, identity=people["mallory"])


def test_somebody_elses_endpoint_is_refused_by_the_service(
    local_endpoint: EndpointAgent, people: dict[str, Identity]
) -> None:
    with pytest.raises(GlobusAPIError, match="somebody else's"):
        call(local_endpoint, identity=people["alice"])


def test_the_service_stops_and_starts_and_knows_everything(hosted: Hosted, local_endpoint: EndpointAgent) -> None:
    sdk = client()
    function = sdk.register_function(whoami)
    task = sdk.run("before", endpoint_id=local_endpoint.id, function_id=function)
    hosted.stop()
    hosted.start()
    for _ in Deadline(60, "the endpoint is online"):  # It may have missed heartbeats, which wait in RabbitMQ.
        if sdk.get_endpoint_status(local_endpoint.id)["status"] == "online":
            break
    later = sdk.run("after", endpoint_id=local_endpoint.id, function_id=function)
    hosted.until_over(task, later)
    assert [sdk.get_result(each)["word"] for each in (task, later)] == ["before", "after"]


def note(file: str) -> int:
    """Adds a line to a file."""
    with open(file, "a") as lines:
        return lines.write("run\n")


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "later"])
def test_a_task_may_be_delivered_twice(hosted: Hosted, local_endpoint: EndpointAgent, at_once: bool) -> None:
    file = local_endpoint.scratch / f"note-{at_once}"
    hosted.set(deliver_twice=int(at_once))
    sdk = client()
    task = sdk.run(str(file), endpoint_id=local_endpoint.id, function_id=sdk.register_function(note))
    hosted.until_over(task)
    if not at_once:
        hosted.redeliver(task)
    for _ in Deadline(60, "it has run twice"):
        if file.read_text() == "run\nrun\n":
            break


def test_a_function_that_is_not_allowed_is_refused_by_the_service_and_by_the_agent(
    hosted: Hosted, strict_endpoint: EndpointAgent
) -> None:
    sdk = client()
    assert sdk.get_allowed_functions(strict_endpoint.id)["functions"] == ["00000000-0000-4000-8000-000000000001"]
    with pytest.raises(GlobusAPIError, match="not permitted") as refused:
        call(strict_endpoint)
    assert refused.value.http_status == 403
    hosted.set(enforce_allow_lists=False)
    assert sdk.get_allowed_functions(strict_endpoint.id)["restricted"] is False
    with pytest.raises(TaskExecutionFailed, match="not permitted"):
        call(strict_endpoint)


def test_bad_credentials_are_refused(hosted: Hosted, owner: Identity) -> None:
    wrong = Identity(owner.id, "wrong", owner.username)
    with pytest.raises(GlobusAPIError, match="invalid_client") as refused:
        client(wrong)
    assert refused.value.http_status == 401


def test_faults_happen_as_often_as_they_were_asked_for(hosted: Hosted, owner: Identity) -> None:
    sdk = client()
    hosted.fail(route="GET /v2/endpoints", status=418, times=1)
    with pytest.raises(GlobusAPIError) as refused:
        sdk.get_endpoints()
    assert refused.value.http_status == 418
    sdk.get_endpoints()
