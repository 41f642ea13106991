"""`weft config`: show or check the configuration."""

from __future__ import annotations

import msgspec
import typer
import yaml

from services.cli.settings import load
from services.runtime.secrets import hide_secrets

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def config() -> None:
    """Show or check the configuration: weft.yaml, overridden by WEFT_SECTION__KEY."""


@app.command()
def show() -> None:
    """Print the effective configuration, its secrets hidden."""
    effective = load()
    sections = {name: msgspec.to_builtins(section) for name, section in effective.sections.items()}
    print(f"# from {effective.file or 'defaults'} and the environment")
    print(yaml.safe_dump({"home": str(effective.home), **hide_secrets(sections)}, sort_keys=False), end="")


@app.command()
def check() -> None:
    """Say whether the configuration is right."""
    effective = load()
    print(f"{effective.file or 'The default configuration'} is right; its home is {effective.home}.")
