"""Envoys for tests: two that tests share, and those that a test starts for itself."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.testing.edge import Front, start_front
from tests.testing.mesh import Mesh, MeshOptions, hold, let_go
from tests.testing.parts import need_part
from tests.testing.processes import Part

StartFront = Callable[..., Awaitable[Front]]

CERTIFICATES = [
    {"pattern": "spiffe://weft/users/*", "allow_models": ["*"]},
    {"pattern": "spiffe://weft/ns/none/*", "principal": "services/none", "allow_models": ["*"]},
]


@pytest.fixture
def start_envoy() -> Iterator[StartFront]:
    """Starts Envoys in front of meshes, with the settings of the section `envoy`; they end with the test."""
    fronts: list[Part] = []

    async def start(mesh: Mesh, **settings: Any) -> Front:
        return await start_front(fronts, mesh, **settings)

    yield start
    for front in fronts:
        front.clear_away()


def _shared(factory: pytest.TempPathFactory, options: MeshOptions) -> Iterator[tuple[Mesh, Front]]:
    mesh = hold(factory.mktemp("weft"), options)
    fronts: list[Part] = []

    async def begin() -> Front:
        await mesh.start()
        return await start_front(fronts, mesh)

    try:
        yield mesh, asyncio.run(begin())
    finally:
        for front in fronts:
            front.clear_away()
        let_go(mesh)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[tuple[Mesh, Front]]:
    """A mesh whose parts know each other by keys, and an Envoy; for tests that do them no harm."""
    need_part("envoy", request.config)
    yield from _shared(tmp_path_factory, MeshOptions())


@pytest.fixture(scope="session")
def mutual(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[tuple[Mesh, Front]]:
    """The same with mutual TLS."""
    need_part("envoy", request.config)
    options = MeshOptions(mtls=True, auth={"certificates": CERTIFICATES}, router={"wait_for_worker_s": 0.3})
    yield from _shared(tmp_path_factory, options)
