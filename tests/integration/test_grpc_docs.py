"""docs/grpc.md, as it stands: its blocks run against a real mesh, and its tables are compared with the code."""

import asyncio
import re
import shlex
import shutil
import sys
from pathlib import Path

import grpc
import pytest
from weft.client import retry
from weft.client.errors import from_rpc

from services.core.errors import CATALOGUE, Reason, ServiceError
from services.rpc.errors import ERROR_METADATA, to_proto
from tests.integration.test_examples import run, surroundings
from tests.testing.certificates import Authority
from tests.testing.mesh import Mesh
from tests.testing.node import node_modules
from tests.testing.parts import requires_part
from tests.testing.processes import SOON

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/grpc.md").read_text()
HTTP_ALONE = {"METHOD_NOT_ALLOWED", "HEADERS_TOO_LARGE"}
ADMINISTRATION = {"RESOURCE_EXISTS", "RESOURCE_CHANGED", "RESOURCE_IN_USE"}


def blocks(kind: str) -> dict[str, str]:
    """The blocks of a kind, those of one section together, by the section's heading."""
    found: dict[str, str] = {}
    for section in PAGE.split("\n## ")[1:]:
        text = "\n".join(re.findall(rf"^```{kind}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
        if text:
            found[section.partition("\n")[0]] = text
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the page names, and a grpcurl."""
    authority = Authority(tmp_path, "ca")
    certificate, key = authority.issue("spiffe://weft/users/ada", file="ada")
    key.rename(certificate.with_name("ada-key.pem"))
    (tmp_path / "weft.key").write_text("weft-key\n")
    if shutil.which("grpcurl") is None:
        ours = f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {sys.executable} -m tests.testing.grpcurl "$@"\n'
        (tmp_path / "grpcurl").write_text(ours)
        (tmp_path / "grpcurl").chmod(0o755)
    return tmp_path


def test_every_block_is_of_a_kind_that_is_run() -> None:
    kinds = re.findall(r"^```(.+)$", PAGE, re.MULTILINE)
    assert set(kinds) == {"sh", "sh node", "python", "js"}
    assert PAGE.count("\n```") == 2 * len(kinds)


@pytest.mark.parametrize("section", blocks("python"))
async def test_python(mesh: Mesh, folder: Path, section: str) -> None:
    file = folder / "block.py"
    file.write_text(blocks("python")[section])
    shown = await run(sys.executable, file, environ=surroundings(mesh), folder=folder)
    if section == "By the stubs alone":
        assert "StatusCode.NOT_FOUND MODEL_NOT_FOUND The model `no-such-model` does not exist." in shown
    if section == "Errors":
        assert shown.startswith("MODEL_NOT_FOUND ")


async def test_readme(mesh: Mesh, folder: Path) -> None:
    (chapter,) = re.findall(r"^## Over gRPC\n(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    python, shell = re.findall(r"^```(?:python)?\n(.*?)^```$", chapter, re.MULTILINE | re.DOTALL)
    (folder / "block.py").write_text(python)
    assert await run(sys.executable, folder / "block.py", environ=surroundings(mesh), folder=folder)
    lines = shell.replace("127.0.0.1:7000", mesh.address("router"))
    environ = {**surroundings(mesh), "PATH": f"{folder}:/usr/bin:/bin"}
    assert '"usage"' in await run("bash", "-euc", lines, environ=environ, folder=folder)


@pytest.mark.parametrize("section", blocks("sh"))
async def test_sh(mesh: Mesh, folder: Path, section: str) -> None:
    lines = blocks("sh")[section].replace("127.0.0.1:7000", mesh.address("router"))
    environ = {"HOME": str(folder), "PATH": f"{folder}:/usr/bin:/bin"}
    (folder / ".weft").mkdir()
    (folder / ".weft/dev.key").write_text(mesh.key)
    shown = await run("bash", "-euc", lines, environ=environ, folder=folder)
    for word in ("weft.inference.v1.InferenceService\n", "SERVING", "sim-model", '"finishReason"', '"deltas"', '"end"'):
        assert word in shown


@requires_part("node")
async def test_node(mesh: Mesh, folder: Path) -> None:
    """In a copy, as `npm ci` writes beside the example."""
    shutil.copytree(ROOT / "examples/node", folder / "examples/node")
    (folder / "protos").symlink_to(ROOT / "protos")
    (lines,) = blocks("sh node").values()
    # It installs packages, from the net where this machine has not kept them.
    shown = await run("bash", "-euc", lines, environ=surroundings(mesh), folder=folder, seconds=3 * SOON)
    assert shown.count(" tokens)") == 2
    (folder / "examples/node/block.js").write_text("".join(blocks("js").values()))
    environ = {**surroundings(mesh), "NODE_PATH": str(await asyncio.to_thread(node_modules))}
    assert (await run("node", folder / "examples/node/block.js", environ=environ)).strip().isdecimal()


class Failed(grpc.RpcError):
    """What a router answers for a reason."""

    def __init__(self, reason: Reason) -> None:
        error = ServiceError(reason)
        code = next(code for code in grpc.StatusCode if code.value[0] == CATALOGUE[reason].grpc.value)
        self.code = lambda: code
        self.details = lambda: error.message
        self.trailing_metadata = lambda: ((ERROR_METADATA, to_proto(error).SerializeToString()),)


def rows() -> dict[str, tuple[list[str], str]]:
    """By reason: the kinds as which it is raised, and whether it is tried again."""
    table = (line.strip("|").split("|") for line in PAGE.splitlines() if re.match(r"\| [A-Z]+_?[A-Z_, ]+ \|", line))
    cells = ([cell.strip() for cell in row] for row in table)
    return {reason: (kinds.split(", "), again) for reasons, kinds, again, _ in cells for reason in reasons.split(", ")}


def test_the_table_has_every_reason() -> None:
    assert set(rows()) == {reason.name for reason in Reason} - HTTP_ALONE - ADMINISTRATION


@pytest.mark.parametrize("name", rows())
def test_the_table_says_what_the_client_does(name: str) -> None:
    kinds, again = rows()[name]
    assert type(from_rpc(Failed(Reason[name]))).__name__ in kinds
    assert (again == "yes") is (name in retry.NOTHING_BEGUN)
