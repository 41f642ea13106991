"""A folder that `weft endpoints render` wrote, started by the real agent, with jobs in a real Slurm."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from globus_compute_sdk import Client, Executor
from globus_compute_sdk.serialize import PureSourceTextInspect

from endpoints.render import Order, render
from endpoints.writing import write
from tests.globus.endpoint import EndpointAgent
from tests.globus.hosted import Hosted, Identity
from tests.globus.run import Run
from tests.globus.site import Site
from tests.globus.slurm import PARTITION, Slurm

FIRST_RESULT = 180
NAME = "clusters/site/endpoints/rendered"
SHOWN = ("WEFT_JOB", "WEFT_WALLTIME_S", "WEFT_SCHEDULER", "WEFT_VLLM_COMMAND", "WEFT_LOG_DIR", "SLURM_JOB_ID")


def shown(names: list[str], wait_for: str) -> dict[str, Any]:
    """The job's variables; with `wait_for`, when a file of that name is there."""
    import os
    import subprocess
    import time

    while wait_for and not os.path.exists(wait_for):
        time.sleep(0.1)
    job = ["scontrol", "show", "job", os.environ["SLURM_JOB_ID"]]
    told = subprocess.run(job, capture_output=True, text=True, check=True).stdout
    return {"job": told, **{name: os.environ.get(name) for name in names}}


def touch(file: str) -> bool:
    open(file, "w").close()
    return True


@pytest.fixture(scope="module")
def rendered(run: Run, hosted: Hosted, site: Site, owner: Identity, account: str | None, slurm: Slurm) -> EndpointAgent:
    """An endpoint for a model, at a site of one file."""
    agent = EndpointAgent(run, hosted, site, owner, "rendered", user=account, environ=slurm.environ)
    settings = {
        "any_function": True,
        "heartbeat_period": 5,
        "site": {
            "gpus_per_node": 1,
            "amqp_port": None,  # the emulated service has its own
            "account": None,
            "queue": {"default": PARTITION},
            "walltime": {"default": "00:10:00", "maximum": "01:00:00"},
            "address": {"interface": None, "ip": "127.0.0.1"},
            "scheduler_options": ["--gres=gpu:1"],
            "provider": {"exclusive": False, "cores_per_node": 1},
            "engine": {"job_status_kwargs": {"strategy_period": 1, "max_idletime": 60}},
            "environment": {"venv": None, "setup": site.worker_init.splitlines()},
            "vllm_environment": {"venv": None},
            "endpoint_environment": run.marks,
            "log_folder": str(agent.scratch / "logs"),
        },
    }
    write(render(Order("slurm", "opt-125m", settings, name="rendered", folder=str(agent.folder)), None), agent.folder)
    agent.hand_over()
    agent.start()
    return agent


def executor(agent: EndpointAgent, slot: int) -> Executor:
    client = Client(code_serialization_strategy=PureSourceTextInspect())
    config = {"weft_endpoint": NAME, "weft_slot": slot, "walltime": "00:05:00"}
    return Executor(endpoint_id=agent.id, client=client, user_endpoint_config=config)


def test_a_slot_is_a_job_that_is_named_and_tagged_and_knows_how_to_launch_vllm(rendered: EndpointAgent) -> None:
    with executor(rendered, 1) as one:
        found = one.submit(shown, list(SHOWN), "").result(FIRST_RESULT)
    tag = f"weft:endpoint={NAME};slot=1;models=facebook/opt-125m"
    assert found["WEFT_JOB"] == tag
    assert f"Comment={tag}" in found["job"].split()
    assert "JobName=weft-rendered-1\n" in found["job"]
    assert "TimeLimit=00:05:00" in found["job"]
    assert (found["WEFT_WALLTIME_S"], found["WEFT_SCHEDULER"]) == ("300", "slurm")
    assert found["WEFT_LOG_DIR"] == str(rendered.scratch / "logs")
    assert shlex.split(found["WEFT_VLLM_COMMAND"])[0] == str(rendered.folder / "launch_vllm.sh")


def test_tasks_of_a_slot_run_beside_the_one_that_holds_it_and_another_slot_is_another_job(
    rendered: EndpointAgent,
) -> None:
    file = str(rendered.scratch / "let-go")
    with executor(rendered, 2) as two, executor(rendered, 3) as three:
        held = two.submit(shown, list(SHOWN), file)
        assert two.submit(touch, file).result(FIRST_RESULT) is True
        first, other = held.result(FIRST_RESULT), three.submit(shown, list(SHOWN), "").result(FIRST_RESULT)
    assert first["SLURM_JOB_ID"] != other["SLURM_JOB_ID"]
    assert "slot=3;" in other["WEFT_JOB"]
