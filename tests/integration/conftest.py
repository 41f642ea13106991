"""What the tests over real processes share."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from tests.testing.twins import Twins

Measured = Callable[[str, float], None]


@pytest.fixture(scope="session")
def _twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    twins = Twins(tmp_path_factory.mktemp("twins"))
    try:
        asyncio.run(twins.start())
        yield twins
    finally:
        twins.clear_away()


@pytest.fixture
async def twins(_twins: Twins) -> Twins:
    """Two workers, whole and idle. A test may kill any part; what is dead after it is started before the next."""
    await _twins.restore()
    return _twins


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    """Reports a time in seconds, at the end of the run; the tests bound it widely, for a starved machine."""

    def record(what: str, seconds: float) -> None:
        request.node.user_properties.append(("measured time", f"{what}: {seconds:.2f} s"))

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    lines = [text for report in reports if report.when == "call" for name, text in report.user_properties]
    if lines:
        terminalreporter.section("measured times")
        for line in lines:
            terminalreporter.line(line)
