"""What the tests with a real Globus Compute endpoint share, started when it is first asked for, once a session.

`make test-globus` installs the programs and builds the environments.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

from tests.globus import templates
from tests.globus.endpoint import EndpointAgent
from tests.globus.hosted import Hosted, Identity
from tests.globus.rabbitmq import RabbitMQ
from tests.globus.run import Run
from tests.globus.site import Site, make_site
from tests.globus.slurm import PARTITION, Slurm
from tests.testing.parts import need_part

_agents: list[EndpointAgent] = []
_runs: list[Run] = []


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
    return cluster


@pytest.fixture(scope="session")
def account(run: Run) -> str | None:
    """Who runs the single-user agents: an ordinary user made for it, since root's agents are multi-user ones."""
    return run.user("test") if os.geteuid() == 0 else None


@pytest.fixture(scope="session")
def local_endpoint(run: Run, hosted: Hosted, site: Site, owner: Identity, account: str | None) -> EndpointAgent:
    """A single-user endpoint that runs tasks on its own machine, online."""
    agent = EndpointAgent(run, hosted, site, owner, "local", user=account)
    _agents.append(agent)
    agent.configure({}, templates.local(site.worker_init))
    agent.start()
    return agent


@pytest.fixture(scope="session")
def slurm_endpoint(
    run: Run, hosted: Hosted, site: Site, owner: Identity, account: str | None, slurm: Slurm
) -> EndpointAgent:
    """A single-user endpoint that runs tasks in jobs of Slurm, online."""
    agent = EndpointAgent(run, hosted, site, owner, "slurm", user=account, environ=slurm.environ)
    _agents.append(agent)
    agent.configure({}, templates.slurm(site.worker_init, PARTITION))
    agent.start()
    return agent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Puts the logs of the run into the report of a test that failed."""
    report = yield
    if report.failed:
        agents = {agent.name: agent for agent in _agents}
        for part in (part for run in _runs for part in run.parts):
            log = agents[part.name].log if part.name in agents else part.log
            report.sections.append((f"log of {part.name}", log))
    return report
