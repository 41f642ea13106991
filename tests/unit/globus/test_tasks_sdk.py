"""The SDK's own Executor, as we have changed it: its hooks are private parts, and a new version may move them."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest
from globus_compute_sdk.errors import DeserializationError
from globus_compute_sdk.sdk.batch import Batch
from globus_compute_sdk.sdk.executor import _REGISTERED_EXECUTORS, _ResultWatcher
from globus_compute_sdk.serialize import ComputeSerializer, DillDataBase64

from services.globus.executors import GlobusExecutor
from services.globus.serializer import ENVELOPE, JsonSerializer, task_size

SOON = 10.0


class Service:
    """The SDK's client, as far as an Executor uses it: it takes every task, or none."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.fx_serializer = ComputeSerializer()
        self.groups: list[uuid.UUID | None] = []

    def create_batch(self, task_group_id: Any = None, **how: Any) -> Batch:
        self.groups.append(task_group_id)
        return Batch(task_group_id, serializer=self.fx_serializer)

    def batch_run(self, endpoint_uuid: Any, batch: Batch) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        tasks = {function: [str(uuid.uuid4()) for _ in tasks] for function, tasks in batch.prepare()["tasks"].items()}  # type: ignore[union-attr]
        ids = {name: str(uuid.uuid4()) for name in ("request_id", "task_group_id")}
        return {**ids, "endpoint_id": str(endpoint_uuid), "tasks": tasks}


@pytest.fixture(autouse=True)
def _no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no stream of results here: its thread ends at once."""
    monkeypatch.setattr(_ResultWatcher, "run", lambda watcher: None)


class Hooks:
    def __init__(self) -> None:
        self.submitted, self.ended = threading.Event(), threading.Event()

    def executor(self, service: Service) -> GlobusExecutor:
        return GlobusExecutor(
            service,  # type: ignore[arg-type]
            str(uuid.uuid4()),
            {},
            batch=128,
            submitted=self.submitted.set,
            ended=self.ended.set,
        )


def test_a_submission_is_told_when_the_task_has_its_id() -> None:
    hooks = Hooks()
    executor = hooks.executor(Service())
    future = executor.submit_to_registered_function(str(uuid.uuid4()), ({},))
    assert hooks.submitted.wait(SOON)
    assert future.task_id
    executor.abandon()
    assert hooks.ended.wait(SOON)


def test_a_failed_submit_is_told_and_leaves_nothing_with_the_sdk() -> None:
    hooks = Hooks()
    executor = hooks.executor(Service(ConnectionError("it is away")))
    future = executor.submit_to_registered_function(str(uuid.uuid4()), ({},))
    assert hooks.ended.wait(SOON)
    with pytest.raises(ConnectionError):
        future.result(SOON)
    assert id(executor) not in _REGISTERED_EXECUTORS
    with pytest.raises(RuntimeError):
        executor.submit_to_registered_function(str(uuid.uuid4()), ({},))


def test_executors_share_no_task_group() -> None:
    services = [Service(), Service()]
    for service in services:
        hooks = Hooks()
        executor = hooks.executor(service)
        executor.submit_to_registered_function(str(uuid.uuid4()), ({},))
        assert hooks.submitted.wait(SOON)
        executor.abandon()
    assert [service.groups for service in services] == [[None], [None]]


def test_the_burst_limit_is_lifted() -> None:
    hooks = Hooks()
    executor = hooks.executor(Service())
    assert executor.api_burst_limit > 100
    executor.abandon()


def test_a_result_that_would_run_code_here_is_not_read() -> None:
    pickled = DillDataBase64().serialize({"x": 1})  # type: ignore[no-untyped-call]
    with pytest.raises(DeserializationError):
        JsonSerializer().deserialize(pickled)
    serializer = JsonSerializer()
    assert serializer.deserialize(serializer.serialize({"x": [1, "é"]})) == {"x": [1, "é"]}


@pytest.mark.parametrize("text", ["plain", 'a "quote" and a \\ and \n', "é" * 9, "漢字" * 9, "🙂" * 9, "\x01" * 9, ""])
def test_the_size_of_a_task_is_never_reckoned_too_small(text: str) -> None:
    import json

    payload = {"body": text, "headers": [["a", "b"]]}
    arguments = JsonSerializer().serialize((payload,))
    sent = json.dumps({"tasks": {"f": [JsonSerializer().pack_buffers([arguments, "11\n{}"])]}, "config": {"a": 1}})
    assert len(sent) <= task_size(payload, {"a": 1}) <= 2 * len(sent) + ENVELOPE
