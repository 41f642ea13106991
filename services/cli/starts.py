"""`weft starts`: the workers that the launcher has started, or is about to."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from weft.launcher.v1 import launcher_pb2, launcher_pb2_grpc

from services.cli.connection import connect
from services.cli.overview import to_start_row
from services.cli.resources import print_list
from services.cli.settings import load
from services.cli.status import describe

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def starts() -> None:
    """Look at starts of workers; needs a key with the role admin."""


@app.command("list")
def list_(
    endpoint: Annotated[str, typer.Option(help="Only those of clusters/CLUSTER/endpoints/ENDPOINT.")] = "",
    ended: Annotated[bool, typer.Option("--ended", help="Those that are over, too.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most how many, the newest first.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List starts, newest first."""
    request = launcher_pb2.ListStartsRequest(endpoint=endpoint, show_ended=ended, page_size=limit)
    found = _call("ListStarts", request).starts
    if not (found or ended or as_json):
        print("No start is under way; --ended lists those that are over.")
        return
    print_list(found, ("Name", "Endpoint", "Slot", "State", "What is known"), _row, as_json)


@app.command()
def stop(name: Annotated[str, typer.Argument(help="starts/START.")]) -> None:
    """Give a start up: its worker finishes its calls and ends, and if it has none yet, none will be admitted."""
    _call("StopStart", launcher_pb2.StopStartRequest(name=name))
    print(f"stopping {name}; 'weft starts list' shows how far it is")


def _call(method: str, request: Any) -> Any:
    async def run() -> Any:
        async with connect(load(), "launcher") as launcher:
            stub = launcher_pb2_grpc.LauncherServiceStub(launcher.channel)
            return await getattr(stub, method)(request, metadata=launcher.metadata, timeout=launcher.timeout)

    return asyncio.run(run())


def _row(start: launcher_pb2.Start) -> tuple[str, ...]:
    row = to_start_row(start)
    return (row.name, start.endpoint, str(row.slot), row.state, describe(row))
