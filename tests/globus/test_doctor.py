"""`weft doctor --endpoint` through the real chain: the SDK, agents, and what a scheduler says."""

from __future__ import annotations

import pytest

from tests.globus import templates
from tests.globus.endpoint import EndpointAgent
from tests.globus.hosted import Hosted, Identity
from tests.globus.run import Run
from tests.globus.site import Site
from tests.globus.slurm import Slurm
from tests.globus.test_functions import weft
from tests.testing.mesh import Mesh, StartMesh

ENDPOINT = "clusters/here/endpoints/opt"
DOCTOR = ("doctor", "--endpoint", "here/opt", "--wait", "180")


@pytest.fixture
async def mesh(start_mesh: StartMesh, owner: Identity) -> Mesh:
    """A mesh without workers, in which Weft's functions are registered."""
    mesh = await start_mesh(workers=0)
    code, output = await weft(mesh.environ, "functions", "register")
    assert code == 0, output
    return mesh


async def endpoint(mesh: Mesh, agent: EndpointAgent, *flags: str) -> None:
    await weft(mesh.environ, "clusters", "create", "clusters/here")
    create = ("endpoints", "create", ENDPOINT, "--model", "opt", "--globus", agent.id)
    code, output = await weft(mesh.environ, *create, *flags)
    assert code == 0, output


async def doctor_of_a_failing_job(mesh: Mesh) -> tuple[int, str]:
    """What it finds out where no job can run. An agent ends half a second after it has found that out
    (`engine_bad_state_watcher` of Globus Compute's interchange), and on a busy machine the result that tells of it is
    lost with it; then the endpoint is asked again, as the command itself says.
    """
    for _ in range(3):
        code, output = await weft(mesh.environ, "doctor", "--endpoint", "here/opt", "--wait", "60", "--no-diagnostic")
        if "ask again" not in output:
            break
    return code, output


async def test_a_node_without_vllm_that_reaches_one_router(mesh: Mesh, local_endpoint: EndpointAgent) -> None:
    router = mesh.address("router")
    await endpoint(mesh, local_endpoint, "--router", router, "--router", "127.0.0.1:9")
    code, output = await weft(mesh.environ, *DOCTOR)
    assert code == 1
    lines = {line[4:18].strip(): line for line in output.splitlines() if line[:4] in ("ok  ", "no  ")}
    assert {part: line[:2] for part, line in lines.items() if part != "routers"} == {
        "credentials": "ok",
        "endpoint": "ok",
        "functions": "ok",
        "node": "ok",
        "python": "ok",
        "worker": "ok",
        "vllm": "no",
        "diagnostic": "ok",
    }, output
    assert f"ok  routers       the node reaches {router}" in output, output
    assert "no  routers       the node cannot reach 127.0.0.1:9" in output, output


async def test_a_scheduler_that_refuses(
    run: Run,
    hosted: Hosted,
    site: Site,
    owner: Identity,
    account: str | None,
    slurm: Slurm,
    mesh: Mesh,
) -> None:
    agent = EndpointAgent(run, hosted, site, owner, "refused", user=account, environ=slurm.environ)
    agent.configure({}, templates.slurm(site.worker_init, "no-such-partition"))
    agent.start()
    await endpoint(mesh, agent)
    code, output = await doctor_of_a_failing_job(mesh)
    assert code == 1, output
    assert "no  scheduler     The endpoint answers: sbatch: error: invalid partition" in output, output


async def test_a_node_without_the_agents_environment(
    run: Run, hosted: Hosted, site: Site, owner: Identity, account: str | None, mesh: Mesh
) -> None:
    agent = EndpointAgent(run, hosted, site, owner, "bare", user=account)
    agent.configure({}, templates.local("export PATH=/usr/bin:/bin\n"))
    agent.start()
    await endpoint(mesh, agent)
    code, output = await doctor_of_a_failing_job(mesh)
    assert code == 1, output
    assert "no  python        the job ran" in output, output
    assert "globus-compute-endpoint: command not found" in output, output
