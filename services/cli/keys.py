"""`weft keys`: create, list, show, rotate and revoke API keys."""

from __future__ import annotations

import json
import re
import time
from typing import Annotated, Final

import typer
from google.protobuf.json_format import MessageToDict
from rich.table import Table
from weft.auth.v1 import auth_pb2

from services.cli.auth_calls import call, list_all
from services.cli.tables import print_table

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

_SOON: Final = 14 * 86400
"""Seconds before a key's end from which on 'weft keys list' warns of it."""
_COLUMNS: Final = ("Name", "Principal", "Roles", "Models", "State", "Last used", "For")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Name = Annotated[str, typer.Argument(help="The key's name: keys/… as 'weft keys list' shows it.")]
_Patterns = list[str] | None


@app.callback()
def keys() -> None:
    """Create, list, show, rotate and revoke API keys; needs a key with the role admin."""


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
    allow_operation: Annotated[
        _Patterns, typer.Option(help="An operation, such as chat/completions, or a pattern with *; every one if none.")
    ] = None,
    allow_endpoint: Annotated[_Patterns, typer.Option(help="An endpoint that a worker may serve.")] = None,
    group: Annotated[_Patterns, typer.Option(help="A group that its principal counts as being in.")] = None,
    expires_in: Annotated[str | None, typer.Option(help="How long it is good: 30d, 12h, 90m, 45s.")] = None,
    as_json: _Json = False,
) -> None:
    """Create a key, and print it: it is shown this once."""
    request = auth_pb2.CreateKeyRequest(
        principal=principal, display_name=name, roles=[parse_role(text) for text in role or ()], groups=group
    )
    if allow_model or deny_model or allow_operation or allow_endpoint:
        permissions = auth_pb2.Permissions(
            allow_models=allow_model or (["*"] if deny_model or allow_operation else []),
            deny_models=deny_model,
            allow_endpoints=allow_endpoint,
            allow_operations=allow_operation,
        )
        request.permissions.CopyFrom(permissions)
    if expires_in is not None:
        request.lifetime.FromSeconds(parse_lifetime(expires_in))
    answer = call("CreateKey", request)
    if as_json:
        print(json.dumps({"key": answer.key, "resource": MessageToDict(answer.resource)}))
        return
    _show_new(answer.key, answer.resource)


@app.command()
def rotate(
    name: _Name,
    overlap: Annotated[str, typer.Option(help="How long the old key stays good: 1d, 12h, 90m, 45s, or 0.")] = "1d",
    expires_in: Annotated[
        str | None, typer.Option(help="How long the new key is good; as long as the old one was to be, if not said.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Replace a key by one with the same scope. It is printed, this once."""
    request = auth_pb2.RotateKeyRequest(name=name)
    request.overlap.FromSeconds(0 if overlap == "0" else parse_lifetime(overlap))
    if expires_in is not None:
        request.lifetime.FromSeconds(parse_lifetime(expires_in))
    answer = call("RotateKey", request)
    if as_json:
        resources = {"resource": MessageToDict(answer.resource), "rotated": MessageToDict(answer.rotated)}
        print(json.dumps({"key": answer.key, **resources}))
        return
    _show_new(answer.key, answer.resource)
    typer.echo(f"{answer.rotated.name} is good until {answer.rotated.expire_time.ToJsonString()}.", err=True)


@app.command()
def rotate_signing() -> None:
    """Sign session tokens with a fresh key. Without this it is replaced when it is due."""
    fresh = call("RotateSigningKey", auth_pb2.RotateSigningKeyRequest()).key
    print(f"signing with {fresh.id}; the former key verifies what it has signed until that expires")


@app.command("list")
def list_(
    principal: Annotated[str, typer.Option(help="Only this one's.")] = "",
    as_json: _Json = False,
) -> None:
    """List keys, revoked ones too."""
    found = list_all("ListKeys", auth_pb2.ListKeysRequest(principal=principal), "keys")
    if as_json:
        print(json.dumps([MessageToDict(key) for key in found]))
        return
    table = Table(*_COLUMNS)
    for key in found:
        table.add_row(*_row(key))
    print_table(table)
    now = time.time()
    for key in found:
        if ends_soon(key, now):
            typer.echo(f"{key.name}, of {key.principal}, expires {_day(key)}: 'weft keys rotate {key.name}'", err=True)


@app.command()
def show(name: _Name, as_json: _Json = False) -> None:
    """Show what is known of a key. The key itself is known to nobody."""
    _print_key(call("GetKey", auth_pb2.GetKeyRequest(name=name)).key, as_json)


@app.command()
def revoke(name: _Name, as_json: _Json = False) -> None:
    """Revoke a key for good."""
    _print_key(call("RevokeKey", auth_pb2.RevokeKeyRequest(name=name)).key, as_json)


def ends_soon(key: auth_pb2.Key, now: float) -> bool:
    """Whether a key that nobody has replaced yet ends within two weeks."""
    if key.HasField("revoke_time") or key.successor or not key.HasField("expire_time"):
        return False
    return now < key.expire_time.ToSeconds() < now + _SOON


def _show_new(key: str, resource: auth_pb2.Key) -> None:
    print(key)
    typer.echo(f"{resource.name}, of {resource.principal}; the key is shown only now.", err=True)


def _print_key(key: auth_pb2.Key, as_json: bool) -> None:
    if as_json:
        print(json.dumps(MessageToDict(key)))
        return
    scope = (
        ("Operations", ", ".join(key.permissions.allow_operations) or "all"),
        ("Endpoints", ", ".join(key.permissions.allow_endpoints) or "none"),
        ("Groups", ", ".join(key.groups) or "none"),
    )
    for name, value in (*zip(_COLUMNS, _row(key), strict=True), *scope):
        print(f"{name + ':':<13}{value}")


def _row(key: auth_pb2.Key) -> tuple[str, ...]:
    models = ", ".join([*key.permissions.allow_models, *(f"not {model}" for model in key.permissions.deny_models)])
    roles = ", ".join(auth_pb2.Role.Name(role).removeprefix("ROLE_").lower() for role in key.roles)
    used = key.last_use_time.ToJsonString() if key.HasField("last_use_time") else "never"
    return (key.name, key.principal, roles, models or "none", state(key, time.time()), used, key.display_name)


def state(key: auth_pb2.Key, now: float) -> str:
    """Whether a key is good, and until when."""
    if key.HasField("revoke_time"):
        return f"revoked {key.revoke_time.ToJsonString()}"
    if not key.HasField("expire_time"):
        return "good"
    then = f"; then {key.successor}" if key.successor else ""
    return f"{'until' if now < key.expire_time.ToSeconds() else 'expired'} {_day(key)}{then}"


def _day(key: auth_pb2.Key) -> str:
    return key.expire_time.ToJsonString()
