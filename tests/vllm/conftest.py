"""Real vLLM servers and a mesh over them, started once a session.

`make test-vllm` builds vLLM's environment and names its Python in WEFT_VLLM_PYTHON.
"""

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.vllm.mesh import Mesh
from tests.vllm.rows.row import CHAT_MODEL, EMBED_MODEL
from tests.vllm.server import CHAT_OPTIONS, EMBED_OPTIONS, VllmServer, serve_command

LOG_LINES = 25

Measured = Callable[[str, float], None]
Servers = dict[str, VllmServer]


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The Python of vLLM's environment, which has the tiny models beside it."""
    path = os.environ.get("WEFT_VLLM_PYTHON")
    if not path:
        pytest.fail("These tests need a real vLLM: run `make test-vllm`, which builds one.", pytrace=False)
    return Path(path)


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="session")
def chat_command(vllm_python: Path) -> list[str]:
    """The command line of a vLLM that serves the tiny chat model; where it listens is not in it."""
    return serve_command(vllm_python, vllm_python.parents[1] / "models" / "chat", CHAT_MODEL, CHAT_OPTIONS)


@pytest.fixture(scope="session")
def embed_command(vllm_python: Path) -> list[str]:
    return serve_command(vllm_python, vllm_python.parents[1] / "models" / "embed", EMBED_MODEL, EMBED_OPTIONS)


@pytest.fixture(scope="session")
def servers(chat_command: list[str], embed_command: list[str], logs: Path) -> Iterator[Servers]:
    """A vLLM for each model. Tests may use them, and leave them as they were."""
    started = {
        CHAT_MODEL: VllmServer(chat_command, CHAT_MODEL, logs / "chat.log"),
        EMBED_MODEL: VllmServer(embed_command, EMBED_MODEL, logs / "embed.log"),
    }
    try:
        for server in started.values():
            server.start()
        for server in started.values():
            server.ready()
        yield started
    finally:
        for server in started.values():
            server.stop()


@pytest.fixture(scope="session")
def chat_server(servers: Servers) -> VllmServer:
    return servers[CHAT_MODEL]


@pytest.fixture(scope="session")
def mesh(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh that serves both models."""
    started = Mesh(tmp_path_factory.mktemp("mesh") / "home", [server.url for server in servers.values()])
    try:
        started.ready(*servers)
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="session")
def single_mesh(chat_server: VllmServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh with one model and one worker."""
    started = Mesh(tmp_path_factory.mktemp("single") / "home", [chat_server.url])
    try:
        started.ready(CHAT_MODEL)
        yield started
    finally:
        started.stop()


@pytest.fixture
def fragile_mesh(chat_server: VllmServer, tmp_path: Path) -> Iterator[Mesh]:
    """As `single_mesh`, of the test's own, to break."""
    started = Mesh(tmp_path / "home", [chat_server.url])
    try:
        started.ready(CHAT_MODEL)
        yield started
    finally:
        started.stop()


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """Report a time in seconds: it is printed at the end of the run and judged by nobody here."""

    def record(what: str, seconds: float) -> None:
        request.node.user_properties.append(("measured", f"{what}: {seconds:.2f} s"))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    lines = [text for report in reports if report.when == "call" for name, text in report.user_properties]
    if lines:
        terminalreporter.section("measured times")
        for line in lines:
            terminalreporter.line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of the logs of the servers and the mesh that a failed test used."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, Mesh | VllmServer):
                report.sections.append((f"log of {name}", value.process.tail(LOG_LINES)))
    return report
