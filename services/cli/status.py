"""`weft status`: endpoints, workers and those on their way, models and load."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from services.cli.overview import EndpointRow, Overview, StartRow, WorkerRow, look
from services.cli.settings import load
from services.runtime.config import Config

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_STYLES = {
    "ready": "green",
    "active": "green",
    "unhealthy": "red",
    "failed": "red",
    **dict.fromkeys(("pending", "queued", "starting", "draining"), "yellow"),
}
_NUMBERS = ("Running", "Waiting", "Cache", "Open", "Ended", "Tokens in", "out")


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and show changes as they come.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks, with --watch.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show endpoints, workers, models and load; what cannot be reached is said. Needs a key with the role admin."""
    config = load()
    if watch:
        asyncio.run(_watch(config, interval))
        return
    overview = asyncio.run(look(config))
    if as_json:
        print(json.dumps(overview.to_builtins(), indent=2))
    else:
        Console(highlight=False).print(render(overview))
    if overview.unreachable:
        raise typer.Exit(1)


async def _watch(config: Config, interval: float) -> None:
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            live.update(render(await look(config)), refresh=True)
            await asyncio.sleep(interval)


def render(overview: Overview) -> RenderableType:
    """Each endpoint with its workers, as wide as 80 columns allow; a line for each part that cannot be reached.

    Running, waiting, cache and tokens are vLLM's own; open and ended count the calls of this router.
    """
    models = Text(f"Models that you may call: {', '.join(overview.models) or 'none'}")
    troubles = [Text(trouble, style="red") for trouble in overview.unreachable]
    details = [
        Text(f"{endpoint.name} {worker.instance[:8]}: {worker.detail}", style="yellow")
        for endpoint in overview.endpoints
        for worker in endpoint.workers
        if worker.state != "ready" and worker.detail
    ]
    return Group(*(_endpoint(endpoint) for endpoint in overview.endpoints), models, *details, *troubles)


def _starts(endpoint: EndpointRow) -> list[RenderableType]:
    """A line for each start whose worker is not among those that take calls."""
    lines = []
    for start in endpoint.starts:
        if start.state != "ready" or not any(worker.instance == start.instance for worker in endpoint.workers):
            line = Text.assemble((start.state, _STYLES.get(start.state, "")), f"  {describe(start)}")
            lines.append(Padding(line, (0, 0, 0, 2)))
    return [*lines, Text()] if lines else []


def describe(start: StartRow) -> str:
    """How far a start is: its detail, its place in the queue, when it is expected to begin, its job."""
    words = [start.detail]
    if start.queue_position:
        words.append(f"place {start.queue_position} in the queue")
    if start.expected_start:
        words.append(f"expected to start at {start.expected_start}")
    if start.job:
        words.append(f"job {start.job}")
    return "; ".join(filter(None, words))


def _endpoint(endpoint: EndpointRow) -> RenderableType:
    models = dict.fromkeys((*endpoint.models, *(model for worker in endpoint.workers for model in worker.models)))
    title = Text.assemble((endpoint.name, "bold"), "  ", _endpoint_state(endpoint), "  ", ", ".join(models))
    if not endpoint.workers:
        return Group(title, *(_starts(endpoint) or [Text()]))
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("Worker", "State"):
        table.add_column(name, no_wrap=True)
    for number in _NUMBERS:
        table.add_column(number, justify="right", no_wrap=True)
    for worker in endpoint.workers:
        table.add_row(worker.instance[:8], _state(worker.state), *_load(worker))
    return Group(title, Padding(table, (0, 0, 1, 2)), *_starts(endpoint))


def _endpoint_state(endpoint: EndpointRow) -> Text:
    if endpoint.availability == "active" and endpoint.backend != "http" and not endpoint.workers:
        return Text("no worker", style="yellow")
    state = _state(endpoint.availability)
    return state + Text(f" ({endpoint.notice})") if endpoint.notice else state


def _state(state: str) -> Text:
    return Text(state, style=_STYLES.get(state, ""))


def _load(worker: WorkerRow) -> tuple[str, ...]:
    return (
        str(worker.running),
        str(worker.waiting),
        f"{worker.kv_cache_usage:.0%}",
        str(worker.open_calls),
        str(worker.ended_calls),
        f"{worker.prompt_tokens:,}",
        f"{worker.generation_tokens:,}",
    )
