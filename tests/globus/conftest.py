"""What the tests with a real Globus Compute endpoint share, started when it is first asked for, once a session.

`make test-globus` installs the programs and builds the environments.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from globus_compute_sdk.sdk import executor

from tests.globus import templates
from tests.globus.chain import QUICK, WITH_LAUNCHER, Chain
from tests.globus.endpoint import EndpointAgent
from tests.globus.hosted import Hosted, Identity
from tests.globus.rabbitmq import RabbitMQ
from tests.globus.recipes import WEFT, Recipes, run_weft
from tests.globus.run import Run
from tests.globus.site import Site, make_site
from tests.globus.slurm import PARTITION, Slurm
from tests.testing.mesh import StartMesh
from tests.testing.parts import need_part

MakeAgent = Callable[..., EndpointAgent]
StartChain = Callable[..., Awaitable[Chain]]

_runs: list[Run] = []
_clusters: list[Slurm] = []


@pytest.fixture(scope="session")
def run() -> Iterator[Run]:
    """The run that all processes, users and files belong to."""
    made = Run()
    _runs.append(made)
    try:
        yield made
    finally:
        _runs.remove(made)
        made.close()


@pytest.fixture(scope="session")
def rabbitmq(run: Run, request: pytest.FixtureRequest) -> RabbitMQ:
    """RabbitMQ, running."""
    need_part("rabbitmq", request.config)
    server = RabbitMQ(run)
    server.start()
    return server


@pytest.fixture(scope="session")
def hosted(run: Run, rabbitmq: RabbitMQ) -> Iterator[Hosted]:
    """The emulated service, running. The SDK in this process and in those that it starts speaks to it."""
    service = Hosted(run, rabbitmq)
    service.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in service.environ.items():
            patch.setenv(name, value)
        patch.setenv("GLOBUS_COMPUTE_USER_DIR", str(run.folder / "sdk"))
        yield service
        # The SDK keeps these until this process exits, when RabbitMQ is gone and each would try again for long.
        for watcher in list(executor._RESULT_WATCHERS.values()):
            watcher.shutdown()


@pytest.fixture(scope="session")
def owner(hosted: Hosted) -> Iterator[Identity]:
    """The identity that owns the endpoints and that the SDK in this process has, unless told otherwise."""
    identity = hosted.identity("owner@example.org")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in identity.environ.items():
            patch.setenv(name, value)
        yield identity


@pytest.fixture(scope="session")
def site(run: Run, request: pytest.FixtureRequest) -> Site:
    """The endpoint's environment, with Weft beside it."""
    need_part("endpoint", request.config)
    return make_site(run)


@pytest.fixture(scope="session")
def slurm(run: Run, request: pytest.FixtureRequest) -> Slurm:
    """A Slurm of one node, running."""
    need_part("slurm", request.config)
    cluster = Slurm(run)
    cluster.start()
    _clusters.append(cluster)
    return cluster


@pytest.fixture(scope="session")
def account(run: Run) -> str | None:
    """Who runs the single-user agents: an ordinary user made for it, since root's agents are multi-user ones."""
    return run.user("test") if os.geteuid() == 0 else None


@pytest.fixture(scope="session")
def local_endpoint(run: Run, hosted: Hosted, site: Site, owner: Identity, account: str | None) -> EndpointAgent:
    """A single-user endpoint that runs tasks on its own machine, online."""
    agent = EndpointAgent(run, hosted, site, owner, "local", user=account)
    agent.configure({}, templates.local(site.worker_init))
    agent.start()
    return agent


@pytest.fixture(scope="session")
def strict_endpoint(run: Run, hosted: Hosted, site: Site, owner: Identity, account: str | None) -> EndpointAgent:
    """As `local_endpoint`, with an allow-list of one function, which does not exist; online."""
    agent = EndpointAgent(run, hosted, site, owner, "strict", user=account)
    agent.configure({"allowed_functions": ["00000000-0000-4000-8000-000000000001"]}, templates.local(site.worker_init))
    agent.start()
    return agent


@pytest.fixture(scope="session")
def slurm_endpoint(
    run: Run, hosted: Hosted, site: Site, owner: Identity, account: str | None, slurm: Slurm
) -> EndpointAgent:
    """A single-user endpoint that runs tasks in jobs of Slurm, online."""
    agent = EndpointAgent(run, hosted, site, owner, "slurm", user=account, environ=slurm.environ)
    agent.configure({}, templates.slurm(site.worker_init, PARTITION))
    agent.start()
    return agent


@pytest.fixture(scope="session")
def people(run: Run, hosted: Hosted, request: pytest.FixtureRequest) -> dict[str, Identity]:
    """Alice and Bob, whom the service knows and who have accounts on this machine; and Mallory, who has none."""
    need_part("users", request.config)
    for name in ("alice", "bob"):
        run.user(name)
    return {name: hosted.identity(f"{name}@example.org") for name in ("alice", "bob", "mallory")}


@pytest.fixture(scope="session")
def shared_endpoint(
    run: Run, hosted: Hosted, site: Site, owner: Identity, people: dict[str, Identity]
) -> EndpointAgent:
    """A multi-user endpoint of root's, which runs the tasks of each person under that person's account, online."""
    agent = EndpointAgent(run, hosted, site, owner, "shared")
    mapping = agent.folder / "identity_mapping.json"
    rule = {"source": "{username}", "match": "(.*)@example\\.org", "output": f"weft-{{0}}-{run.name}"}
    mapping.write_text(json.dumps([{"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": [rule]}]))
    agent.configure(
        {"identity_mapping_config_path": str(mapping), "email": "admin@example.org"},
        templates.local(site.worker_init),
        environment=site.environ,
    )
    agent.start()
    return agent


@pytest.fixture(scope="session")
def functions(run: Run, owner: Identity) -> Path:
    """Weft's functions, registered with the service: the file that says their UUIDs."""
    file = run.folder / "functions.yaml"
    environ = {**os.environ, "WEFT_HOME": str(run.folder / "administrator")}
    run_weft(*WEFT, "functions", "register", "--no-registry", "--file", str(file), environ=environ)
    return file


@pytest.fixture(scope="session")
def recipes(run: Run, site: Site, functions: Path) -> Recipes:
    """How endpoints are rendered."""
    return Recipes(run, site, Path(os.environ.get("WEFT_VLLM_PYTHON", "/missing/bin/python")), functions)


@pytest.fixture(scope="session")
def make_agent(
    run: Run, hosted: Hosted, site: Site, owner: Identity, account: str | None, recipes: Recipes
) -> MakeAgent:
    """Renders and starts agents that live as long as the run. `real` is about vLLM; None is for none."""

    def make(
        name: str, scheduler: str, *, real: bool | None, flags: tuple[str, ...] = (), **more: Any
    ) -> EndpointAgent:
        environ: dict[str, str] = more.pop("environ", {})
        walltime: str = more.pop("walltime", "00:20:00")
        agent = EndpointAgent(run, hosted, site, owner, name, user=account, environ=environ)
        described = recipes.describe_site(scheduler, real=bool(real), walltime=walltime)
        model = None if real is None else recipes.describe_model(real=real, flags=flags)
        recipes.render(agent, described, model, **more)
        agent.start()
        return agent

    return make


@pytest.fixture(scope="session")
def local_sim(make_agent: MakeAgent) -> EndpointAgent:
    """Workers with a simulated vLLM, on the agent's machine."""
    return make_agent("local-sim", "local", real=False)


@pytest.fixture(scope="session")
def slurm_sim(make_agent: MakeAgent, slurm: Slurm) -> EndpointAgent:
    """Workers with a simulated vLLM, in jobs of Slurm."""
    return make_agent("slurm-sim", "slurm", real=False, environ=slurm.environ)


@pytest.fixture(scope="session")
def slurm_vllm(make_agent: MakeAgent, slurm: Slurm, request: pytest.FixtureRequest) -> EndpointAgent:
    """Workers with a real vLLM, in jobs of Slurm."""
    need_part("vllm", request.config)
    return make_agent("slurm-vllm", "slurm", real=True, environ=slurm.environ)


@pytest.fixture(scope="session")
def slurm_queue(make_agent: MakeAgent, slurm: Slurm) -> EndpointAgent:
    """Tells Slurm's queue, from where jobs are submitted."""
    return make_agent("slurm-queue", "slurm", real=None, purpose="queue-status", environ=slurm.environ)


@pytest.fixture
async def start_chain(start_mesh: StartMesh, hosted: Hosted, functions: Path) -> AsyncIterator[StartChain]:
    """Starts meshes with a launcher; options are those of meshes. Their workers end with the test."""
    chains: list[Chain] = []

    async def start(cluster: dict[str, str] | None = None, **options: Any) -> Chain:
        for slurm in _clusters:
            slurm.clear()  # of jobs that tests without a chain have left idle
        launcher = {**QUICK, **options.pop("launcher", {})}
        mesh = await start_mesh(workers=0, services=WITH_LAUNCHER, endpoints=(), launcher=launcher, **options)
        chains.append(Chain(mesh, hosted, functions))
        await chains[-1].begin(**(cluster or {}))
        return chains[-1]

    yield start
    hosted.be_well()
    for cluster in _clusters:
        cluster.release()
    for chain in chains:
        await chain.stop_all()
    for cluster in _clusters:
        cluster.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Puts the logs of the run into the report of a test that failed."""
    report = yield
    if report.failed:
        for run in _runs:
            report.sections.extend((f"log of {name}", log()) for name, log in run.logs.items())
    return report
