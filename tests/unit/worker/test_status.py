"""What a worker tells of its job."""

import os
import pwd
from pathlib import Path

import pytest
from weft.session.v1 import frame_pb2

from services.worker.config import WorkerConfig
from services.worker.status import Status


def test_the_account_is_the_systems_word_and_not_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    config = WorkerConfig(("router:1",), "clusters/a/endpoints/b", Path("key"), "http://vllm:1", job_id="7")
    job = Status(config).report(frame_pb2.Report()).job
    assert (job.id, job.account) == ("7", pwd.getpwuid(os.getuid()).pw_name)
