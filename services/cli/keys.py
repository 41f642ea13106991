"""`weft keys`: create, list, show and revoke API keys."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.table import Table
from weft.auth.v1 import auth_pb2, auth_pb2_grpc

from services.cli.connection import connect
from services.cli.settings import load

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Name = Annotated[str, typer.Argument(help="The key's name: keys/… as 'weft keys list' shows it.")]
_Patterns = list[str] | None


@app.callback()
def keys() -> None:
    """Create, list, show and revoke API keys; needs a key with the role admin."""


def parse_lifetime(text: str) -> int:
    """Seconds in a lifetime such as `30d`, `12h`, `90m` or `45s`. Raises typer.BadParameter."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", text)
    if match is None:
        raise typer.BadParameter(f"a lifetime is a number and a unit, 30d, 12h, 90m or 45s; not {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def parse_role(text: str) -> auth_pb2.Role.ValueType:
    """A role by its name. Raises typer.BadParameter."""
    known = [name.removeprefix("ROLE_").lower() for name, number in auth_pb2.Role.items() if number]
    if text.lower() not in known:
        raise typer.BadParameter(f"a role is one of {', '.join(known)}; not {text!r}")
    return auth_pb2.Role.Value(f"ROLE_{text.upper()}")


@app.command()
def create(
    principal: Annotated[str, typer.Option(help="Whose it is to be: users/…, services/… or workers/….")],
    name: Annotated[str, typer.Option(help="What it is for, in words.")] = "",
    role: Annotated[_Patterns, typer.Option(help="user, admin, worker or service; may be repeated.")] = None,
    allow_model: Annotated[_Patterns, typer.Option(help="A model, or a pattern with *; every model if none.")] = None,
    deny_model: Annotated[_Patterns, typer.Option(help="A model, or a pattern with *.")] = None,
    allow_endpoint: Annotated[_Patterns, typer.Option(help="An endpoint that a worker may serve.")] = None,
    expires_in: Annotated[str | None, typer.Option(help="How long it is good: 30d, 12h, 90m, 45s.")] = None,
    as_json: _Json = False,
) -> None:
    """Create a key, and print it: it is shown this once."""
    request = auth_pb2.CreateKeyRequest(
        principal=principal, display_name=name, roles=[parse_role(text) for text in role or ()]
    )
    if allow_model or deny_model or allow_endpoint:
        allowed = allow_model or (["*"] if deny_model else [])
        permissions = auth_pb2.Permissions(allow_models=allowed, deny_models=deny_model, allow_endpoints=allow_endpoint)
        request.permissions.CopyFrom(permissions)
    if expires_in is not None:
        request.lifetime.FromSeconds(parse_lifetime(expires_in))
    answer = asyncio.run(_call("CreateKey", request))
    if as_json:
        print(json.dumps({"key": answer.key, "resource": MessageToDict(answer.resource)}))
        return
    print(answer.key)
    typer.echo(f"{answer.resource.name}, of {answer.resource.principal}; the key is shown only now.", err=True)


@app.command("list")
def list_(
    principal: Annotated[str, typer.Option(help="Only this one's.")] = "",
    as_json: _Json = False,
) -> None:
    """List keys, revoked ones too."""
    found = asyncio.run(_list(principal))
    if as_json:
        print(json.dumps([MessageToDict(key) for key in found]))
        return
    table = Table("Name", "Principal", "Begins with", "Roles", "Models", "State", "For")
    for key in found:
        table.add_row(*_row(key))
    Console().print(table)


@app.command()
def show(name: _Name, as_json: _Json = False) -> None:
    """Show what is known of a key; the key itself is known to nobody."""
    _print_key(asyncio.run(_call("GetKey", auth_pb2.GetKeyRequest(name=name))).key, as_json)


@app.command()
def revoke(name: _Name, as_json: _Json = False) -> None:
    """Revoke a key for good."""
    _print_key(asyncio.run(_call("RevokeKey", auth_pb2.RevokeKeyRequest(name=name))).key, as_json)


async def _call(method: str, request: Any) -> Any:
    async with connect(load(), "auth") as auth:
        stub = auth_pb2_grpc.AuthServiceStub(auth.channel)
        return await getattr(stub, method)(request, metadata=auth.metadata, timeout=auth.timeout)


async def _list(principal: str) -> list[auth_pb2.Key]:
    found: list[auth_pb2.Key] = []
    async with connect(load(), "auth") as auth:
        stub = auth_pb2_grpc.AuthServiceStub(auth.channel)
        request = auth_pb2.ListKeysRequest(principal=principal)
        while True:
            answer = await stub.ListKeys(request, metadata=auth.metadata, timeout=auth.timeout)
            found += answer.keys
            request.page_token = answer.next_page_token
            if not request.page_token:
                return found


def _print_key(key: auth_pb2.Key, as_json: bool) -> None:
    if as_json:
        print(json.dumps(MessageToDict(key)))
        return
    names = ("Name", "Principal", "Begins with", "Roles", "Models", "State", "For")
    for name, value in zip(names, _row(key), strict=True):
        print(f"{name + ':':<13}{value}")


def _row(key: auth_pb2.Key) -> tuple[str, ...]:
    models = ", ".join([*key.permissions.allow_models, *(f"not {model}" for model in key.permissions.deny_models)])
    roles = ", ".join(auth_pb2.Role.Name(role).removeprefix("ROLE_").lower() for role in key.roles)
    return (key.name, key.principal, key.prefix, roles, models or "none", _state(key), key.display_name)


def _state(key: auth_pb2.Key) -> str:
    if key.HasField("revoke_time"):
        return f"revoked {key.revoke_time.ToJsonString()}"
    if key.HasField("expire_time"):
        return f"until {key.expire_time.ToJsonString()}"
    return "good"
