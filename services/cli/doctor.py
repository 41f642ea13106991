"""`weft doctor`: what is well, what is not, and what to do."""

from __future__ import annotations

import asyncio

import typer
from rich.console import Console

from services.cli.check import print_check
from services.cli.checks import examine

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def doctor() -> None:
    """Check each part in order, and say what to do; exits with 1 if something is to be done."""
    if not asyncio.run(_doctor(Console(highlight=False))):
        raise typer.Exit(1)


async def _doctor(console: Console) -> bool:
    good = True
    async for check in examine():
        print_check(check, console)
        good = good and check.good
    return good
