"""`weft up`: the whole mesh on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from services.cli.local_mesh import LocalMesh
from services.cli.local_shape import Shape
from services.cli.settings import load
from services.runtime.home import locked, log_file
from services.runtime.logging import LogConfig, set_up_logging

app = typer.Typer(add_completion=False, rich_markup_mode=None)

KILLED = 128 + signal.SIGINT


@app.command()
def up(
    one_process: Annotated[bool, typer.Option("--one-process", help="All services in one process.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="How many workers, each with a vLLM of its own.")] = 1,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="The port of the HTTP API.")] = None,
    vllm_url: Annotated[
        list[str] | None,
        typer.Option(help="Attach this vLLM (http://host:port or unix:/path) instead; may be repeated."),
    ] = None,
    vllm_model: Annotated[str | None, typer.Option(help="Launch 'vllm serve' with this model instead.")] = None,
    launcher: Annotated[
        bool, typer.Option("--launcher", help="Start workers through Globus Compute too; allows --workers 0.")
    ] = False,
    mtls: Annotated[
        bool, typer.Option("--mtls", help="Mutual TLS between the parts, with certificates made where there are none.")
    ] = False,
    envoy: Annotated[
        bool, typer.Option("--envoy", help="An Envoy in front, by HTTPS; with --mtls also by gRPC.")
    ] = False,
) -> None:
    """Start auth, registry, router, facade and workers, with a simulated vLLM unless told otherwise."""
    if vllm_url and vllm_model:
        raise typer.BadParameter("give --vllm-url or --vllm-model, not both")
    if not workers and not launcher:
        raise typer.BadParameter("a mesh without --launcher needs a worker: give --workers 1 or more")
    shape = Shape(
        one_process, workers, port, tuple(vllm_url or ()), vllm_model, launcher=launcher, mtls=mtls, envoy=envoy
    )
    config = load()
    with locked(config.home):
        if one_process:
            log = log_file(config.home, "weft")
            log.parent.mkdir(parents=True, exist_ok=True)
            set_up_logging("weft", config.section("log", LogConfig), log.open("a"))
        console = Console(highlight=False)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(_up(LocalMesh(config, shape, console.print), console))
    raise typer.Exit(code)


async def _up(mesh: LocalMesh, console: Console) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    living = asyncio.ensure_future(_live(mesh, console))

    def on_signal() -> None:
        if stopping.is_set():
            mesh.kill()
            os._exit(KILLED)
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    asked = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({living, asked}, return_when=asyncio.FIRST_COMPLETED)
        if living.done():
            await living  # raises why it could not start, or why it ended
    finally:
        living.cancel()
        asked.cancel()
        await asyncio.gather(living, asked, return_exceptions=True)
        if stopping.is_set():
            console.print("Stopping; once more Ctrl-C stops at once.")
        await mesh.stop()
    console.print("Stopped; nothing is left running.")
    return 0


async def _live(mesh: LocalMesh, console: Console) -> None:
    with console.status("Starting"):
        models = await mesh.start()
    console.print(welcome(mesh, models), soft_wrap=True, markup=False)
    await mesh.run()


def welcome(mesh: LocalMesh, models: list[str]) -> str:
    """How to use the mesh, with lines that work when pasted into a shell."""
    url, key, ca = mesh.url, mesh.key, mesh.ca
    model = models[0] if models else "MODEL"
    body = f'{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'
    curl = (
        f"curl -N {'' if ca is None else f'--cacert {shlex.quote(str(ca))} '}"
        f'{url}/v1/chat/completions -H "Authorization: Bearer {key}" '
        f'-H "Content-Type: application/json" -d {shlex.quote(body)}'
    )
    program = (
        f'from openai import OpenAI; client = OpenAI(base_url="{url}/v1", api_key="{key}"); '
        f'print(client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello"}}])'
        ".choices[0].message.content)"
    )
    authority = "" if ca is None else f"  Authority {ca}: clients must trust it\n"
    callers = ", for callers with certificates: weft certs issue" if mesh.mutual else ""
    traces = "weft trace, in another terminal, shows where the time of each call went.\n" if mesh.traced else ""
    return (
        f"\nThe mesh is up.\n\n"
        f"  Base URL  {url}/v1\n"
        f"  Key       {key}\n"
        f"  Models    {', '.join(models) or 'none yet'}\n"
        f"{authority}"
        f"  gRPC      {mesh.grpc}{callers}\n\n"
        f"{curl}\n\n"
        f"{'' if ca is None else f'SSL_CERT_FILE={shlex.quote(str(ca))} '}{_python()} -c {shlex.quote(program)}\n\n"
        f"{traces}"
        "Ctrl-C stops everything.\n"
    )


def _python() -> str:
    """This Python if it has the client, written as shortly as the present folder allows."""
    if importlib.util.find_spec("openai") is None:
        return "python"
    here = Path(sys.executable)
    here = plain if (plain := here.with_name("python")).exists() else here
    return str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else str(here)
