"""A batch by a real vLLM in a job of a real Slurm, cancelled in the middle and run again."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from globus_compute_sdk import Client
from globus_compute_sdk.serialize import JSONData

from tests.globus.conftest import MakeAgent
from tests.globus.endpoint import EndpointAgent
from tests.globus.hosted import Hosted
from tests.globus.slurm import Slurm
from tests.testing.parts import need_part
from tests.vllm.processes import Deadline
from tests.vllm.rows.row import CHAT_MODEL

REQUESTS = 360
"""More than are answered between the wish to cancel the job and its end, on a machine with nothing else to do."""
BATCH_SECONDS = 240
"""Two starts of vLLM, and what it says, on two cores that do other things too."""


@pytest.fixture(scope="session")
def batches(make_agent: MakeAgent, slurm: Slurm, request: pytest.FixtureRequest) -> EndpointAgent:
    """Runs batches, with a real vLLM."""
    need_part("vllm", request.config)
    return make_agent("batches", "slurm", real=True, purpose="batch", environ=slurm.environ)


def lines(file: Path) -> list[str]:
    """The lines of a file that are whole."""
    return file.read_text().split("\n")[:-1] if file.exists() else []


def submit(endpoint: str, functions: Path, request: dict[str, Any]) -> str:
    """Submits a batch, and gives its task."""
    client = Client(data_serialization_strategy=JSONData())
    function = yaml.safe_load(functions.read_text())["functions"]["batch"][0]["uuid"]
    batch = client.create_batch(user_endpoint_config={"weft_endpoint": "clusters/hpc/endpoints/batch", "weft_slot": 0})
    batch.add(function, (request,))
    tasks: str = client.batch_run(endpoint, batch)["tasks"][function][0]
    return tasks


def test_a_batch_whose_job_is_cancelled_goes_on_where_it_was(
    hosted: Hosted, batches: EndpointAgent, slurm: Slurm, functions: Path
) -> None:
    slurm.clear()
    folder = batches.scratch / f"batch-{uuid.uuid4().hex[:6]}"
    folder.mkdir()
    asked = [
        {
            "custom_id": f"r{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": CHAT_MODEL,
                "messages": [{"role": "user", "content": f"Say {number}."}],
                "max_tokens": 48,
                "ignore_eos": True,
            },
        }
        for number in range(REQUESTS)
    ]
    (folder / "in.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in asked))
    batches.own(folder)
    request = {
        "input_file": str(folder / "in.jsonl"),
        "output_folder": str(folder / "out"),
        "model": CHAT_MODEL,
        "batch": "b",
        "resume": True,
        "concurrency": 2,
    }
    first = submit(batches.id, functions, request)
    done = folder / "out" / "b.done.jsonl"
    for _ in Deadline(BATCH_SECONDS, "some requests are answered"):
        if len(lines(done)) >= 10:
            break
        (task,) = [task for task in hosted.tasks("batch") if task["id"] == first]
        assert not task["completed"], json.dumps(Client().get_task(first)["result"])
    (job,) = slurm.jobs()
    slurm.cancel(job["job_id"])
    hosted.until_over(first, seconds=BATCH_SECONDS)
    kept = lines(done)
    assert 10 <= len(kept) < REQUESTS

    second = submit(batches.id, functions, request)
    hosted.until_over(second, seconds=BATCH_SECONDS)
    answer = Client().get_result(second)
    assert (answer["status"], answer["completed"], answer["failed"]) == ("completed", REQUESTS, 0), answer
    results = [json.loads(line) for line in lines(Path(answer["output_file"]))]
    assert [result["custom_id"] for result in results] == [line["custom_id"] for line in asked]
    assert all(result["response"]["body"]["usage"]["completion_tokens"] == 48 for result in results)
    ids = {result["response"]["body"]["id"] for result in results}
    assert all(any(id in line for id in ids) for line in kept), "an answer that was kept was given up"
