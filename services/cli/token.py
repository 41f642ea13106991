"""`weft token`: an access token, for whatever takes one."""

from __future__ import annotations

import typer

from services.cli.globus_login import fresh_token
from services.cli.settings import load

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def token() -> None:
    """Print a fresh access token: OPENAI_API_KEY=$(weft token). A service account's, with WEFT_CLIENT_ID and
    WEFT_CLIENT_SECRET_FILE.
    """
    print(fresh_token(load()))
