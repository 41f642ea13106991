"""The commands, each in a module of its own that is imported when it is called."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

COMMANDS = {
    "up": "Start the whole mesh on this machine, and stay until Ctrl-C.",
    "demo": "Start a mesh, ask it one question, show the answer and the status, and stop.",
    "serve": "Run one service: auth, registry, router, facade or launcher.",
    "worker": "Attach a vLLM to routers.",
    "sim": "Run a simulated vLLM.",
    "status": "Show endpoints, workers, models and load.",
    "chat": "Chat with a model in the terminal.",
    "login": "Log in at Globus Auth.",
    "token": "Print an access token: OPENAI_API_KEY=$(weft token).",
    "whoami": "Tell who the gateway says that you are.",
    "logout": "End the login.",
    "keys": "Create, list, show, rotate and revoke API keys.",
    "auth": "Deny callers and admit them again, and explain what they may use.",
    "endpoints": "Manage endpoints, and import FIRST's.",
    "clusters": "Manage clusters.",
    "routes": "Manage routes.",
    "functions": "Register Weft's functions with Globus Compute.",
    "starts": "List and stop the starts of workers.",
    "certs": "Make certificates for mutual TLS.",
    "envoy": "Put an Envoy in front: render its configuration, check it, run it.",
    "trace": "List the latest traces, and show where the time of one went.",
    "usage": "Show calls and tokens by user, group, model or day.",
    "audit": "Verify and show the audit logs.",
    "config": "Show or check the configuration.",
    "doctor": "Check each part in order, and say what to do.",
}


class Commands(TyperGroup):
    """Imports a command when it is called: `weft up` starts many processes, and none needs all of this."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        command = get_command(import_module(f"services.cli.{cmd_name}").app)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The help's list, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def weft(
    config: Annotated[
        Path | None, typer.Option(help="The configuration file, instead of $WEFT_HOME/weft.yaml.")
    ] = None,
) -> None:
    """The GPUs of many sites as one OpenAI-compatible service."""
    if config is not None:
        # By the environment, so that the processes that a command starts read the same file.
        os.environ["WEFT_CONFIG"] = str(config.expanduser().absolute())
