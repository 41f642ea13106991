"""`weft routes`: the public names of models, and the endpoints that may serve them."""

from __future__ import annotations

from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from weft.registry.v1 import registry_pb2, resources_pb2

from services.cli.access_flags import AccessFlags, with_access_flags
from services.cli.resources import call, list_all, print_list, print_one
from services.core.names import slug

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Name = Annotated[str, typer.Argument(help="routes/ROUTE.")]
_to = typer.Option("--to", help="clusters/CLUSTER/endpoints/ENDPOINT, with =MODEL if it has another name there.")
_Targets = Annotated[list[str], _to]
_NewTargets = Annotated[list[str] | None, _to]


@app.callback()
def routes() -> None:
    """Manage routes; needs a key with the role admin."""


@app.command("list")
def list_(as_json: _Json = False) -> None:
    """List routes."""
    found = list_all("ListRoutes", registry_pb2.ListRoutesRequest(), "routes")
    print_list(found, ("Name", "Model", "To"), _row, as_json)


@app.command()
def show(name: _Name) -> None:
    """Show a route, all of it."""
    print_one(call("GetRoute", registry_pb2.GetRouteRequest(name=name)).route)


@app.command()
@with_access_flags
def create(
    model: Annotated[str, typer.Argument(help="The public name of the model.")], to: _Targets, *, who: AccessFlags
) -> None:
    """Create a route to endpoints that exist."""
    route = resources_pb2.Route(name=f"routes/{slug(model)}", model=model, targets=_targets(to))
    who.put(route, resources_pb2.Route())
    print_one(call("CreateRoute", registry_pb2.CreateRouteRequest(route=route)).route)


@app.command()
@with_access_flags
def update(name: _Name, to: _NewTargets = None, *, who: AccessFlags) -> None:
    """Change what is given of a route; --to gives all of its targets anew."""
    route, paths = resources_pb2.Route(name=name, targets=_targets(to or [])), ["targets"] if to else []
    if who.given:
        paths += who.put(route, call("GetRoute", registry_pb2.GetRouteRequest(name=name)).route)
    if not paths:
        raise typer.BadParameter("nothing to change; give at least one option")
    request = registry_pb2.UpdateRouteRequest(route=route, update_mask=FieldMask(paths=paths))
    print_one(call("UpdateRoute", request).route)


@app.command()
def delete(name: _Name) -> None:
    """Delete a route; its model then goes to every endpoint that serves it."""
    call("DeleteRoute", registry_pb2.DeleteRouteRequest(name=name))
    print(f"deleted {name}")


def _targets(texts: list[str]) -> list[resources_pb2.RouteTarget]:
    parts = [text.partition("=") for text in texts]
    return [resources_pb2.RouteTarget(endpoint=endpoint, model=model) for endpoint, _, model in parts]


def _row(route: resources_pb2.Route) -> tuple[str, ...]:
    return (route.name, route.model, "\n".join(target.endpoint for target in route.targets))
