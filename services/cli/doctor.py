"""`weft doctor`: what is well, what is not, and what to do."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console

from services.cli.check import print_check
from services.cli.checks import examine
from services.cli.failures import CommandError
from services.cli.globus import NO_SDK
from services.cli.settings import load

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def doctor(
    endpoint: Annotated[
        str | None, typer.Option(metavar="NAME", help="Look at this endpoint of Globus Compute: CLUSTER/ENDPOINT.")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Look from its node, too, which may start a job there.")
    ] = True,
    wait: Annotated[float, typer.Option(min=1, help="Seconds that the node's answer is waited for.")] = 300.0,
    diagnostic: Annotated[
        bool, typer.Option("--diagnostic/--no-diagnostic", help="Ask globus-compute-diagnostic, too.")
    ] = True,
) -> None:
    """Check each part in order, and say what to do; exits with 1 if something is to be done."""
    console = Console(highlight=False)
    work = _doctor(console) if endpoint is None else _endpoint(console, endpoint, probe, wait, diagnostic)
    if not asyncio.run(work):
        raise typer.Exit(1)


async def _doctor(console: Console) -> bool:
    good = True
    async for check in examine():
        print_check(check, console)
        good = good and check.good
    return good


async def _endpoint(console: Console, name: str, probe: bool, wait: float, diagnostic: bool) -> bool:
    # Imported here: a mesh without Globus Compute needs no SDK.
    try:
        from services.cli.endpoint_diagnosis import diagnose
        from services.cli.endpoint_look import find, look
        from services.cli.globus_diagnostic import ask_diagnostic
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("globus"):
            raise
        raise CommandError(NO_SDK) from error
    config = load()
    subject = await find(config, name)
    if probe:
        console.print(f"looking at {subject.endpoint.name}; its node has {wait:.0f} s to answer …", soft_wrap=True)
    asked = asyncio.create_task(ask_diagnostic()) if diagnostic else None
    try:
        checks = diagnose(await look(config, subject, probe=probe, wait=wait))
        checks += await asked if asked else []
    finally:
        if asked is not None:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
    for check in checks:
        print_check(check, console)
    return all(check.good for check in checks)
