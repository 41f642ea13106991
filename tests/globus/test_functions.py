"""`weft functions` and the first looks of `weft doctor --endpoint`, by the real SDK against the emulated service."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from globus_compute_sdk import Client

from services.globus.control import Control
from services.globus.sources import MODULES, read_source
from tests.globus.hosted import Hosted, Identity
from tests.testing.mesh import Mesh, StartMesh

ENDPOINT = "clusters/sophia/endpoints/opt"
ASSURED = "6f5c9a3e-2e2b-4a50-9d7e-1a4f0a6f1a11"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder with a small function of each name."""
    folder = tmp_path / "sources"
    folder.mkdir()
    for module in MODULES.values():
        (folder / f"{module}.py").write_text(f'"""Does {module}."""\n\n\ndef {module}(request):\n    return request\n')
    return folder


@pytest.fixture
async def mesh(start_mesh: StartMesh) -> Mesh:
    """Auth and registry, which is all that these commands need."""
    return await start_mesh(services=("auth", "registry"), workers=0)


async def weft(environ: Mapping[str, str], *arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", *arguments),
        env={**os.environ, "COLUMNS": "300", **environ},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def listed(environ: Mapping[str, str]) -> list[dict[str, Any]]:
    code, output = await weft(environ, "functions", "list", "--json")
    assert code == 0, output
    found: list[dict[str, Any]] = json.loads(output)
    return found


def uuid_of(rows: list[dict[str, Any]], name: str) -> str:
    return str(next(row["uuid"] for row in rows if row["name"] == f"functions/{name}"))


async def test_only_what_changed_is_registered(owner: Identity, mesh: Mesh, sources: Path) -> None:
    register = ("functions", "register", "--sources", str(sources))
    code, output = await weft(mesh.environ, *register)
    assert (code, "5 registered" in output) == (0, True), output
    first = await listed(mesh.environ)
    assert len(first) == 5
    code, output = await weft(mesh.environ, *register)
    assert (code, "0 registered" in output) == (0, True), output
    assert await listed(mesh.environ) == first

    (sources / "probe.py").write_text("def probe(request):\n    return {'changed': True}\n")
    code, output = await weft(mesh.environ, *register)
    assert (code, "1 registered" in output) == (0, True), output
    second = await listed(mesh.environ)
    assert [row for row in second if row in first] == first, "the older version stays beside the new one"
    control, new = Control(Client()), uuid_of(second, "probe")
    assert control.source_of(new, "probe") == (sources / "probe.py").read_text()
    code, output = await weft(mesh.environ, "functions", "verify", "--sources", str(sources))
    assert code == 0, output

    file = mesh.home / "functions.yaml"
    assert new in file.read_text()
    file.unlink()
    assert await listed(mesh.environ) == second, "the registry has them too"


async def test_what_is_deleted_is_found_and_registered_anew(owner: Identity, mesh: Mesh, sources: Path) -> None:
    register = ("functions", "register", "--sources", str(sources))
    await weft(mesh.environ, *register)
    gone = uuid_of(await listed(mesh.environ), "batch")
    Client().delete_function(gone)
    code, output = await weft(mesh.environ, "functions", "verify", "--sources", str(sources))
    assert code == 1
    assert [line for line in output.splitlines() if line.startswith("no")] == [
        line for line in output.splitlines() if gone in line and "has it no more" in line
    ]
    code, output = await weft(mesh.environ, *register)
    assert (code, "1 registered" in output) == (0, True), output
    assert gone not in json.dumps(await listed(mesh.environ))
    code, output = await weft(mesh.environ, "functions", "verify", "--sources", str(sources))
    assert code == 0, output


async def test_without_a_registry_the_file_is_enough(owner: Identity, tmp_path: Path, sources: Path) -> None:
    environ = {"WEFT_HOME": str(tmp_path / "home")}
    options = ("--sources", str(sources), "--no-registry")
    code, output = await weft(environ, "functions", "register", *options, "probe", "--ha-endpoint", ASSURED)
    assert (code, "1 registered" in output) == (0, True), output
    assert f"ha_endpoint: {ASSURED}" in (tmp_path / "home" / "functions.yaml").read_text()
    register = ("functions", "register", *options, "probe", "--renew-after", "0")
    code, output = await weft(environ, *register)
    assert (code, "2 registered" in output, "renewed after 0 days" in output) == (0, True, True), output
    code, output = await weft(environ, "functions", "verify", *options, "probe")
    assert (code, f"is there, for {ASSURED}, kept" in output) == (0, True), output


async def test_bad_credentials_are_told_without_the_secret(owner: Identity, tmp_path: Path, sources: Path) -> None:
    environ = {"WEFT_HOME": str(tmp_path / "home"), "GLOBUS_COMPUTE_CLIENT_SECRET": "hidden-word"}
    code, output = await weft(environ, "functions", "register", "--no-registry", "--sources", str(sources))
    assert (code, "hidden-word" in output, "Traceback" in output) == (1, False, False)
    assert "Globus Auth refuses the credentials" in output
    assert "Check the client id and the secret" in output
    del environ["GLOBUS_COMPUTE_CLIENT_SECRET"]
    environ |= {
        "GLOBUS_COMPUTE_CLIENT_ID": "",
        "GLOBUS_COMPUTE_CLIENT_SECRET": "",
        "GLOBUS_COMPUTE_USER_DIR": str(tmp_path),
    }
    code, output = await weft(environ, "functions", "register", "--no-registry", "--sources", str(sources))
    assert (code, "Nobody is logged in" in output) == (1, True), output


async def test_the_service_is_away(hosted: Hosted, owner: Identity, tmp_path: Path, sources: Path) -> None:
    environ = {"WEFT_HOME": str(tmp_path / "home"), "GLOBUS_SDK_SERVICE_URL_AUTH": "http://127.0.0.1:9/"}
    code, output = await weft(environ, "functions", "register", "--no-registry", "--sources", str(sources))
    assert (code, "cannot be reached" in output) == (1, True), output


async def test_what_endpoints_allow_is_verified_and_diagnosed(owner: Identity, mesh: Mesh, sources: Path) -> None:
    await weft(mesh.environ, "functions", "register", "--sources", str(sources))
    rows = await listed(mesh.environ)
    allowed = [uuid_of(rows, "probe"), uuid_of(rows, "inference")]
    uuid = Client().register_endpoint("strict", None, allowed_functions=allowed)["endpoint_id"]
    await weft(mesh.environ, "clusters", "create", "clusters/sophia")
    create = ("endpoints", "create", ENDPOINT, "--model", "opt", "--globus")
    code, output = await weft(mesh.environ, *create, uuid)
    assert code == 0, output

    code, output = await weft(mesh.environ, "functions", "verify", "--sources", str(sources))
    assert code == 1
    wrong = f"endpoint {uuid} does not allow {uuid_of(rows, 'start-worker')}"
    assert [line for line in output.splitlines() if line.startswith("no")] == [
        line for line in output.splitlines() if wrong in line
    ]

    doctor = ("doctor", "--no-diagnostic", "--endpoint", "sophia/opt")
    code, output = await weft(mesh.environ, *doctor)
    assert code == 1
    assert "ok  credentials" in output
    assert f"{uuid} is offline" in output
    assert f"functions/start-worker ({uuid_of(rows, 'start-worker')}) is not allowed there" in output

    code, output = await weft({**mesh.environ, "GLOBUS_COMPUTE_CLIENT_SECRET": "hidden-word"}, *doctor)
    assert (code, "no  credentials" in output, "hidden-word" in output) == (1, True, False), output

    await weft(mesh.environ, "endpoints", "update", ENDPOINT, "--globus", "00000000-0000-4000-8000-00000000dead")
    code, output = await weft(mesh.environ, *doctor)
    assert (code, "knows no endpoint 00000000-0000-4000-8000-00000000dead" in output) == (1, True), output


def test_weft_own_functions_are_accepted(owner: Identity) -> None:
    control = Control(Client())
    for name in MODULES:
        source = read_source(name)
        assert control.source_of(control.register(source), source.function) == source.text
