"""The one way in which a test may be left out: a part of the system that it needs is not installed.

    @requires_part("postgresql")
    async def test_…

or, as one case among several, `pytest.param(…, marks=requires_part("postgresql"))`; a fixture asks with `need_part`.
The end of the run lists what was left out and how to have it. With WEFT_ALL_PARTS=1 nothing may be left out, and a
missing part is a failure. Ruff refuses pytest's own ways of skipping, so that no test disappears unseen.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Part:
    """Something that a test may need and pip does not install."""

    found: Callable[[], bool]
    remedy: str
    """What to type to have it."""


def postgresql_programs() -> Path | None:
    """The folder of PostgreSQL's server programs; Debian keeps them out of PATH, one folder a version."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda initdb: float(initdb.parts[-3]))
    if versions:
        return versions[-1].parent
    in_path = shutil.which("initdb")
    return Path(in_path).resolve().parent if in_path else None


PARTS = {
    "endpoint": Part(
        found=lambda: Path(os.environ.get("WEFT_ENDPOINT_PYTHON", "")).is_file(),
        remedy="make test-globus",
    ),
    "envoy": Part(
        found=lambda: Path(os.environ.get("WEFT_ENVOY", "")).is_file(),
        remedy="make test-envoy",
    ),
    "node": Part(
        found=lambda: shutil.which("node") is not None and shutil.which("npm") is not None,
        remedy="apt-get install nodejs npm",
    ),
    "postgresql": Part(
        found=lambda: postgresql_programs() is not None,
        remedy="apt-get install postgresql",
    ),
    "prometheus": Part(
        found=lambda: shutil.which("prometheus") is not None and shutil.which("promtool") is not None,
        remedy="apt-get install prometheus",
    ),
    "rabbitmq": Part(
        found=lambda: Path("/usr/lib/rabbitmq/bin/rabbitmq-server").exists(),
        remedy="make test-globus",
    ),
    "redis": Part(
        found=lambda: shutil.which("redis-server") is not None,
        remedy="apt-get install redis-server",
    ),
    "slurm": Part(
        found=lambda: os.geteuid() == 0 and Path("/usr/sbin/slurmctld").exists(),
        remedy="make test-globus, as root: Slurm runs jobs as other users",
    ),
    "users": Part(
        found=lambda: os.geteuid() == 0,
        remedy="make test-globus, as root: it makes users of this machine for the test",
    ),
    "vllm": Part(
        found=lambda: Path(os.environ.get("WEFT_VLLM_PYTHON", "")).is_file(),
        remedy="make test-vllm",
    ),
    "xds": Part(
        found=lambda: Path(os.environ.get("WEFT_XDS_PYTHON", "")).is_file(),
        remedy="make test-envoy",
    ),
}

_left_out = pytest.StashKey[Counter[str]]()


def requires_part(name: str) -> pytest.MarkDecorator:
    """Marks a test as needing a part, one of the keys of `PARTS`."""
    return pytest.mark.part(name)


def need_part(name: str, config: pytest.Config) -> None:
    """Leaves the test that runs out of the run, or fails it under WEFT_ALL_PARTS, when the part is not installed."""
    part = PARTS[name]
    if part.found():
        return
    if os.environ.get("WEFT_ALL_PARTS") == "1":
        pytest.fail(f"{name} is not installed, and WEFT_ALL_PARTS asks for every part: {part.remedy}", pytrace=False)
    config.stash[_left_out][name] += 1
    pytest.skip(f"{name} is not installed: {part.remedy}")  # noqa: TID251 the one place


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "part(name): needs a part of the system, see tests/testing/parts.py")
    config.stash[_left_out] = Counter()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("part"):
        need_part(mark.args[0], item.config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    left_out = config.stash[_left_out]
    if left_out:
        terminalreporter.section("left out")
    for name, tests in sorted(left_out.items()):
        terminalreporter.line(f"{name}: {tests} left out; to have them: {PARTS[name].remedy}")
