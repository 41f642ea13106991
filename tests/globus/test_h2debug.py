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
DOCTOR = ("doctor", "--endpoint", "here/opt", "--wait", "60")


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


async def test_debug(run: Run, hosted: Hosted, site: Site, owner: Identity, account: str | None, mesh: Mesh) -> None:
    agent = EndpointAgent(run, hosted, site, owner, "other", user=account)
    agent.configure(
        {}, templates.local("export PATH=/tmp/h2py312/bin:/usr/bin:/bin\nexport LD_LIBRARY_PATH=/tmp/h2p312/lib\n")
    )
    agent.start()
    await endpoint(mesh, agent)
    code, output = await weft(mesh.environ, *DOCTOR, "--no-diagnostic")
    print("OUT", output)
    print("TASK", hosted.tasks()[-1])
    print(agent.log)
    assert False
    assert "no  python        the job ran" in output
    assert "globus-compute-endpoint: command not found" in output
