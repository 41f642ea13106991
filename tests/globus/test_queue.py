"""The queue of a real Slurm, as Weft's function tells it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import yaml
from globus_compute_sdk import Client
from globus_compute_sdk.serialize import JSONData

from tests.globus.endpoint import EndpointAgent
from tests.globus.hosted import Hosted
from tests.globus.run import as_user
from tests.globus.slurm import PARTITION, Slurm

TAG = "weft:endpoint=clusters/hpc/endpoints/opt;slot=2;models=opt|opt-big"


def ask(hosted: Hosted, endpoint: str, functions: Path, name: str, request: dict[str, Any]) -> Any:
    """What one of Weft's functions gives at an endpoint."""
    client = Client(data_serialization_strategy=JSONData())
    function = yaml.safe_load(functions.read_text())["functions"][name][0]["uuid"]
    task = client.run(request, endpoint_id=endpoint, function_id=function)
    hosted.until_over(task)
    return client.get_result(task)


def submit(slurm: Slurm, account: str, *options: str) -> int:
    """Submits a job that sleeps, and gives its number."""
    command = [*as_user(account), "sbatch", "--parsable", "--output=/dev/null", *options, "--wrap", "sleep 300"]
    done = subprocess.run(
        command, env={"PATH": "/usr/bin:/bin", **slurm.environ}, capture_output=True, text=True, check=True, cwd="/tmp"
    )
    return int(done.stdout)


def test_jobs_that_run_and_wait_are_told_with_what_they_serve(
    hosted: Hosted, slurm_queue: EndpointAgent, slurm: Slurm, account: str, functions: Path
) -> None:
    slurm.clear()
    try:
        running = submit(slurm, account, "--comment", TAG, "--job-name=weft-opt-2", "--time=10")
        slurm.until_running(running)
        slurm.hold()
        waiting = submit(slurm, account, "--comment", TAG.replace("slot=2", "slot=3"), "--time=20")
        submit(slurm, account, "--job-name=somebody-elses")
        answer = ask(hosted, slurm_queue.id, functions, "queue-status", {"scheduler": "auto", "user": None})
    finally:
        slurm.release()
        slurm.clear()
    assert (answer["scheduler"], answer["error"]) == ("slurm", ""), json.dumps(answer)
    jobs = {job["id"]: job for job in answer["jobs"] if job["endpoint"]}
    assert set(jobs) == {str(running), str(waiting)}
    first, second = jobs[str(running)], jobs[str(waiting)]
    assert (first["state"], first["models"], first["slot"], first["position"]) == ("running", ["opt", "opt-big"], 2, 0)
    assert (second["state"], second["slot"], second["position"]) == ("queued", 3, 1)
    assert (answer["total_nodes"], PARTITION) == (1, "gpu")
