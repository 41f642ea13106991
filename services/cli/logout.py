"""`weft logout`: end the login."""

from __future__ import annotations

import typer

from services.cli.globus_login import log_out
from services.cli.settings import load

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def logout() -> None:
    """Revoke the login's tokens, and forget them."""
    typer.echo("You are logged out." if log_out(load()) else "You were not logged in.", err=True)
