"""Every example, as a newcomer runs it, against a real mesh."""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.testing.mesh import Mesh, StartMesh
from tests.testing.node import EXAMPLE, node_modules
from tests.testing.parts import requires_part
from tests.testing.processes import SOON

EXAMPLES = Path(__file__).parents[2] / "examples"
WEFT = Path(sys.executable).with_name("weft")


async def run(
    *command: str | Path,
    environ: Mapping[str, str],
    folder: Path | None = None,
    fails: bool = False,
    seconds: float = SOON,
) -> str:
    """What a command prints, of both kinds; fails with it unless it ends as it should, in so many seconds."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("WEFT_")}
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=folder,
        env={**ours, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), seconds)
    except BaseException as error:
        process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            pytest.fail(f"not within {seconds:g} s: the end of {command[0]} {command[1]}")
        raise
    text = output.decode()
    assert (process.returncode != 0) is fails, text
    return text


def surroundings(mesh: Mesh) -> dict[str, str]:
    """What tells an example of the mesh."""
    return {"WEFT_ROUTER": mesh.address("router"), "WEFT_KEY": mesh.key}


SHOWN = {
    "chat": " out)",
    "streaming": " tokens)",
    "tools": "weather({",
    "structured": " is ",
    "search": "1.000  The warp",
    "errors": "no such key: not allowed",
    "fan_out": "20 of 20 answered",
}
"""What each shows when all is well."""


@pytest.mark.parametrize("name", SHOWN)
async def test_example(mesh: Mesh, name: str) -> None:
    assert SHOWN[name] in await run(sys.executable, EXAMPLES / f"{name}.py", environ=surroundings(mesh))


async def test_errors(mesh: Mesh) -> None:
    shown = await run(sys.executable, EXAMPLES / "errors.py", environ=surroundings(mesh))
    assert "no such model: MODEL_NOT_FOUND: The model `no-such-model` does not exist." in shown
    assert "no room for an answer: wrong request, field sampling.max_tokens" in shown


async def test_a_model_that_is_not_there_ends_an_example(mesh: Mesh) -> None:
    environ = {**surroundings(mesh), "WEFT_MODEL": "no-such-model"}
    assert "MODEL_NOT_FOUND" in await run(sys.executable, EXAMPLES / "streaming.py", environ=environ, fails=True)


@pytest.mark.parametrize("language", ["python", pytest.param("node", marks=requires_part("node"))])
async def test_mutual_tls(start_mesh: StartMesh, language: str) -> None:
    rule = {"pattern": "spiffe://weft/users/ada", "allow_models": ["sim-*"]}
    mesh = await start_mesh(mtls=True, auth={"certificates": [rule]})
    await run(WEFT, "certs", "issue", "spiffe://weft/users/ada", environ=mesh.environ)
    folder = mesh.home / "certs"
    environ = {
        "WEFT_ROUTER": mesh.address("router"),
        "WEFT_CERTIFICATE": str(folder / "users-ada.pem"),
        "WEFT_CERTIFICATE_KEY": str(folder / "users-ada-key.pem"),
        "WEFT_CA": str(folder / "ca.pem"),
        "WEFT_SERVER_NAME": "router.weft.weft",
    }
    if language == "python":
        shown = await run(sys.executable, EXAMPLES / "mutual_tls.py", environ=environ)
        assert shown.startswith("I may use: sim-model\n")
    else:
        assert " tokens)" in await node("chat.js", environ)


async def node(file: str, environ: Mapping[str, str], *, fails: bool = False) -> str:
    """What a file of the Node example prints."""
    modules = await asyncio.to_thread(node_modules)
    return await run("node", EXAMPLE / file, environ={**environ, "NODE_PATH": str(modules)}, fails=fails)


@requires_part("node")
@pytest.mark.parametrize("file", ["chat.js", "streaming.js"])
async def test_node(mesh: Mesh, file: str) -> None:
    assert " tokens)" in await node(file, surroundings(mesh))


@requires_part("node")
async def test_node_without_a_key_says_what_to_do(tmp_path: Path) -> None:
    environ = {"WEFT_ROUTER": "127.0.0.1:9", "WEFT_HOME": str(tmp_path)}
    assert "There is no key: set WEFT_KEY" in await node("chat.js", environ, fails=True)


@requires_part("node")
@pytest.mark.parametrize("file", ["chat.js", "streaming.js"])
async def test_node_reads_errors(mesh: Mesh, file: str) -> None:
    environ = {**surroundings(mesh), "WEFT_MODEL": "no-such-model"}
    assert await node(file, environ, fails=True) == "MODEL_NOT_FOUND: The model `no-such-model` does not exist.\n"


@requires_part("node")
async def test_node_keeps_a_key_to_itself() -> None:
    shown = await node("chat.js", {"WEFT_ROUTER": "router.example.org:7000", "WEFT_KEY": "secret-key"}, fails=True)
    assert "WEFT_CA" in shown
    assert "secret-key" not in shown


def test_every_example_is_tested() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.py")} == {*SHOWN, "mutual_tls"}
    assert {file.name for file in EXAMPLE.glob("*.js")} == {"weft.js", "chat.js", "streaming.js"}
