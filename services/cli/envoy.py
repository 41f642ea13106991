"""`weft envoy`: an Envoy in front of the mesh, from weft.yaml."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from services.cli.edges import check_certificates, edge_of, find_envoy, remarks
from services.cli.failures import CommandError
from services.cli.settings import load
from services.edge.bootstrap import BOOTSTRAP, rendered
from services.edge.edge import Edge
from services.edge.run import serve
from services.edge.sds import KEY_FILE, key_file
from services.edge.writing import difference, texts, write
from services.rpc.wire import PLAIN
from services.runtime.child import ChildError
from services.runtime.lifecycle import EXPLAINED
from services.runtime.lifecycle import run as live
from services.runtime.logging import LogConfig, set_up_logging
from services.runtime.process import Process
from services.runtime.readiness import Announcer

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

_Check = Annotated[bool, typer.Option("--check", help="Write nothing; fail with a diff if the files are not these.")]


@app.callback()
def envoy() -> None:
    """Put an Envoy in front of the mesh: render its configuration, check it, run it (docs/envoy.md)."""


@app.command()
def render(
    out: Annotated[
        str, typer.Option(help="The folder to write to, instead of 'envoy.directory'; '-' prints all.")
    ] = "",
    check: _Check = False,
) -> None:
    """Write Envoy's configuration: the bootstrap, and a file for each certificate."""
    edge = _edge()
    files = texts(rendered(edge))
    directory = Path(out) if out else edge.directory
    if check:
        _check(files, directory)
    elif out == "-":
        print("".join(f"--- # {name}\n{text}" for name, text in files.items()), end="")
    else:
        write(files, directory)
        typer.echo(f"{directory / BOOTSTRAP}, and {len(files) - 1} files in {directory / 'sds'}")


@app.command(name="check")
def check_files(
    directory: Annotated[
        Path | None, typer.Argument(help="The folder, or its envoy.yaml, instead of 'envoy.directory'.")
    ] = None,
) -> None:
    """Say whether rendered files are those that weft.yaml asks for; fail with a diff if they are not."""
    edge = _edge()
    if directory is not None and directory.name == BOOTSTRAP:
        directory = directory.parent
    _check(texts(rendered(edge)), directory or edge.directory)


@app.command()
def validate() -> None:
    """Have the real Envoy look at the configuration, without running it."""
    program, edge = find_envoy(), _edge()
    check_certificates(edge)
    with tempfile.TemporaryDirectory() as folder:
        # Nothing of an Envoy that runs is touched, its access log included.
        log = "/dev/null" if edge.config.access_log else ""
        elsewhere = msgspec.structs.replace(edge.config, directory=folder, access_log=log)
        edge = replace(edge, config=elsewhere)
        write(texts({**rendered(edge), KEY_FILE: key_file("not-the-key")}), edge.directory)
        command = [str(program), "--mode", "validate", "--config-path", str(edge.directory / BOOTSTRAP)]
        done = subprocess.run([*command, "--log-level", "error"], check=False, capture_output=True, text=True)
    if done.returncode:
        raise CommandError(f"Envoy refuses the configuration:\n{done.stderr.strip()}")
    typer.echo("Envoy takes the configuration.")


@app.command()
def run(
    ready_fd: Annotated[int | None, typer.Option(help="An inherited pipe, told in JSON when ready.")] = None,
) -> None:
    """Run Envoy until SIGTERM or Ctrl-C; calls that are open then have 'envoy.drain_s' seconds to end."""
    program, config = find_envoy(), load()
    edge = _edge()
    check_certificates(edge)
    set_up_logging("envoy", config.section("log", LogConfig), sys.stderr)
    service_key = PLAIN.service_key(edge.home / (edge.config.service_key_file or "service.key"))
    announcer = Announcer(edge.home, ready_fd=ready_fd, tls=edge.tls.directory)
    code = live(
        "envoy",
        partial(serve, edge, program, service_key),
        announcer,
        Process(home=edge.home, ready=announcer.ready, grace=edge.config.drain_s),
        explained=(*EXPLAINED, ChildError),
    )
    raise typer.Exit(code)


def _edge() -> Edge:
    edge = edge_of(load())
    for remark in remarks(edge):
        print(remark, file=sys.stderr)
    return edge


def _check(files: dict[str, str], directory: Path) -> None:
    if found := difference(files, directory):
        print(found, end="")
        raise CommandError(f"{directory} is not as weft.yaml has it; write it anew with 'weft envoy render'.")
    typer.echo(f"{directory} is as weft.yaml has it.")
