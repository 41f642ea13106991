"""`weft login`: log in at Globus Auth."""

from __future__ import annotations

import sys
import webbrowser
from typing import Annotated

import typer

from services.cli.globus_login import log_in
from services.cli.settings import load

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def login(
    force: Annotated[
        bool, typer.Option("--force", help="Prove yourself anew, where your login is too old or too weak.")
    ] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the URL.")] = False,
) -> None:
    """Log in at Globus Auth: open a page, and paste the code that it shows. The login lasts until 'weft logout'."""

    def ask(url: str) -> str:
        typer.echo(f"Log in here:\n\n{url}\n", err=True)
        if not no_browser:
            webbrowser.open(url)
        typer.echo("The code that the page shows: ", err=True, nl=False)
        return sys.stdin.readline()

    log_in(load(), ask, force=force)
    typer.echo("You are logged in; 'weft whoami' tells as whom.", err=True)
