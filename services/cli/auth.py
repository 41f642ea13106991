"""`weft auth`: who is denied, and who may use what."""

from __future__ import annotations

from typing import Annotated

import typer
from weft.auth.v1 import auth_pb2

from services.cli import explain
from services.cli.auth_calls import call, list_all
from services.cli.resources import print_list

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)
explain.register(app)

_Principal = Annotated[str, typer.Argument(help="users/USER, services/SERVICE or workers/WORKER.")]


@app.callback()
def auth() -> None:
    """Deny callers and admit them again, and explain what they may use; needs a key with the role admin."""


@app.command()
def deny(
    principal: _Principal,
    comment: Annotated[str, typer.Option(help="Why, for those who administer.")] = "",
) -> None:
    """Deny a principal everything, by whatever credential. Its workers' sessions end."""
    denial = call("DenyPrincipal", auth_pb2.DenyPrincipalRequest(principal=principal, comment=comment)).denial
    print(f"{denial.principal} is denied; 'weft auth admit {denial.principal}' ends that")


@app.command()
def admit(principal: _Principal) -> None:
    """End the denial of a principal."""
    call("AdmitPrincipal", auth_pb2.AdmitPrincipalRequest(principal=principal))
    print(f"{principal} is denied no longer")


@app.command()
def denied(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the principals that are denied."""
    found = list_all("ListDenials", auth_pb2.ListDenialsRequest(), "denials")
    print_list(found, ("Principal", "Since", "Why"), _row, as_json)


def _row(denial: auth_pb2.Denial) -> tuple[str, ...]:
    return (denial.principal, denial.create_time.ToJsonString(), denial.comment)
