"""`weft demo`: a mesh for one question."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import tempfile

import typer
import uvloop
from rich.console import Console

from services.cli.failures import CommandError
from services.cli.local_mesh import LocalMesh
from services.cli.local_shape import Shape
from services.cli.overview import look
from services.cli.settings import load
from services.cli.status import render
from services.runtime.config import Config

app = typer.Typer(add_completion=False, rich_markup_mode=None)

QUESTION = "What is a weft, and what does it do in a loom?"


@app.command()
def demo() -> None:
    """Start a mesh on free ports, ask it a question with the openai client, show the status, and stop."""
    if importlib.util.find_spec("openai") is None:
        raise CommandError("The demo asks through OpenAI's Python client: pip install openai.")
    with tempfile.TemporaryDirectory(prefix="weft-demo-") as home:
        config = load({**os.environ, "WEFT_HOME": home})
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_demo(config, Console(highlight=False)))


async def _demo(config: Config, console: Console) -> None:
    mesh = LocalMesh(config, Shape(apart=True), console.print)
    try:
        with console.status("Starting"):
            models = await mesh.start()
        console.print(f"\nAsking {models[0]} at {mesh.url}/v1: {QUESTION}\n", markup=False)
        await _ask(mesh.url, mesh.key, models[0])
        console.print()
        console.print(render(await look(config, key=mesh.key)))
    finally:
        await mesh.stop()
    console.print("\nStopped; nothing is left running. 'weft up' starts a mesh that stays.")


async def _ask(url: str, key: str, model: str) -> None:
    """As any program would: with OpenAI's own client, unmodified."""
    from openai import AsyncOpenAI  # a second's work, and not needed by a demo that does not get so far

    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=key) as client:
        stream = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": QUESTION}], stream=True
        )
        async for chunk in stream:
            sys.stdout.write(chunk.choices[0].delta.content or "" if chunk.choices else "")
            sys.stdout.flush()
    sys.stdout.write("\n")
