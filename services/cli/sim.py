"""`weft sim`: the simulated vLLM by itself."""

from __future__ import annotations

import typer

from services.sim.__main__ import main

app = typer.Typer(add_completion=False, rich_markup_mode=None)
PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@app.command(context_settings=PASSED_ON)
def sim(context: typer.Context) -> None:
    """Run a simulated vLLM; its flags are vLLM's own where it has one."""
    main(context.args)
