"""`weft endpoints`: what can serve models, and the import of FIRST's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from weft.registry.v1 import registry_pb2, resources_pb2

from services.cli import endpoint_files
from services.cli.access_flags import AccessFlags, with_access_flags
from services.cli.connection import connect
from services.cli.first.convert import read_fixtures
from services.cli.fixtures import report, to_request
from services.cli.globus_flags import GlobusFlags, with_globus_flags
from services.cli.resources import call, list_all, present, print_list, print_one, state, unary
from services.cli.settings import load

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)
endpoint_files.register(app)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Name = Annotated[str, typer.Argument(help="clusters/CLUSTER/endpoints/ENDPOINT.")]
_Model = Annotated[
    list[str] | None, typer.Option("--model", help="A model, or PUBLIC=SERVED if its server has another name for it.")
]
_Url = Annotated[str | None, typer.Option(help="The base of an OpenAI-compatible server, before /v1.")]
_KeyFile = Annotated[str | None, typer.Option(help="A file on the router's machine with that server's key.")]
_KeyEnv = Annotated[str | None, typer.Option(help="A variable of the router with that server's key.")]
_Framework = Annotated[str | None, typer.Option(help="As in the URL /resource_server/CLUSTER/FRAMEWORK/v1/…")]
_DisplayName = Annotated[str | None, typer.Option(help="A name for people.")]
_Audit = Annotated[
    bool | None,
    typer.Option("--audit/--no-audit", help="Have each call there written to the routers' audit log, without content."),
]


@app.callback()
def endpoints() -> None:
    """Manage endpoints; needs a key with the role admin."""


@app.command("list")
def list_(cluster: Annotated[str, typer.Option(help="Only this cluster's.")] = "", as_json: _Json = False) -> None:
    """List endpoints."""
    parent = f"clusters/{cluster.removeprefix('clusters/')}" if cluster else ""
    found = list_all("ListEndpoints", registry_pb2.ListEndpointsRequest(parent=parent), "endpoints")
    print_list(found, ("Name", "State", "Framework", "Reached by", "Models"), _row, as_json)


@app.command()
def show(name: _Name) -> None:
    """Show an endpoint, all of it."""
    print_one(call("GetEndpoint", registry_pb2.GetEndpointRequest(name=name)).endpoint)


@app.command()
@with_globus_flags
@with_access_flags
def create(
    name: _Name,
    model: _Model = None,
    url: _Url = None,
    api_key_file: _KeyFile = None,
    api_key_env: _KeyEnv = None,
    framework: _Framework = "vllm",
    display_name: _DisplayName = None,
    audit: _Audit = None,
    *,
    flags: GlobusFlags,
    who: AccessFlags,
) -> None:
    """Create an endpoint of workers; with --url, of a server that the router can reach; with --globus, of workers that
    Globus Compute starts.
    """
    endpoint, _ = _endpoint(name, model, url, api_key_file, api_key_env, framework, display_name, audit)
    _check_kind(url, flags)
    who.put(endpoint, resources_pb2.Endpoint())
    if flags.given:
        if not flags.globus:
            raise typer.BadParameter("these flags belong to Globus Compute: give --globus too")
        flags.put(endpoint.globus)
    elif url is None:
        endpoint.session.SetInParent()
    print_one(call("CreateEndpoint", registry_pb2.CreateEndpointRequest(endpoint=endpoint)).endpoint)


@app.command()
@with_globus_flags
@with_access_flags
def update(
    name: _Name,
    model: _Model = None,
    url: _Url = None,
    api_key_file: _KeyFile = None,
    api_key_env: _KeyEnv = None,
    framework: _Framework = None,
    display_name: _DisplayName = None,
    audit: _Audit = None,
    *,
    flags: GlobusFlags,
    who: AccessFlags,
) -> None:
    """Change what is given of an endpoint; --model gives all of its models anew, --url its key too."""
    endpoint, paths = _endpoint(name, model, url, api_key_file, api_key_env, framework, display_name, audit)
    _check_kind(url, flags)
    present = resources_pb2.Endpoint()
    if flags.given or who.given or url is not None:
        present = call("GetEndpoint", registry_pb2.GetEndpointRequest(name=name)).endpoint
        endpoint.etag = present.etag
    paths += who.put(endpoint, present)
    if url is not None and present.globus.HasField("launch"):
        raise typer.BadParameter(
            f"{name} has workers started by Globus Compute, and --url would drop how; create another endpoint for the "
            f"server, or delete this one first"
        )
    if flags.given:
        if present.WhichOneof("backend") != "globus" and not flags.globus:
            raise typer.BadParameter(f"{name} is not of Globus Compute; give --globus to make it so")
        endpoint.globus.CopyFrom(present.globus)
        flags.put(endpoint.globus)
        paths.append("globus")
    if not paths:
        raise typer.BadParameter("nothing to change; give at least one option")
    request = registry_pb2.UpdateEndpointRequest(endpoint=endpoint, update_mask=FieldMask(paths=paths))
    print_one(call("UpdateEndpoint", request).endpoint)


@app.command()
def delete(name: _Name) -> None:
    """Delete an endpoint that no route names."""
    call("DeleteEndpoint", registry_pb2.DeleteEndpointRequest(name=name))
    print(f"deleted {name}")


@app.command()
def drain(
    name: _Name, notice: Annotated[str, typer.Option(help="A sentence for users while it takes no calls.")] = ""
) -> None:
    """Let an endpoint finish its calls and take no more."""
    call("DrainEndpoint", registry_pb2.DrainEndpointRequest(name=name, notice=notice))
    print(f"draining {name}; 'weft endpoints resume {name}' lets it take calls again")


@app.command()
def resume(name: _Name) -> None:
    """Let an endpoint take calls again."""
    call("DrainEndpoint", registry_pb2.DrainEndpointRequest(name=name, resume=True))
    print(f"{name} takes calls")


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="endpoints.json, federated_endpoints.json, clusters.json.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Import FIRST's fixtures, of any version; all of them, or if anything is wrong, none."""
    imported = read_fixtures(files)

    async def run() -> list[str]:
        async with connect(load(), "registry") as registry:
            request = to_request(imported, await present(registry), dry_run=dry_run)
            answer = await unary(registry, "Apply", request)
        return report(answer.results, imported.notes, dry_run=dry_run)

    for line in asyncio.run(run()):
        print(line)


def _check_kind(url: str | None, flags: GlobusFlags) -> None:
    if url is not None and flags.given:
        raise typer.BadParameter("an endpoint is of a --url or of Globus Compute; give the flags of one of them")


def _endpoint(
    name: str,
    models: list[str] | None,
    url: str | None,
    api_key_file: str | None,
    api_key_env: str | None,
    framework: str | None,
    display_name: str | None,
    audit: bool | None,
) -> tuple[resources_pb2.Endpoint, list[str]]:
    """The endpoint that the options tell of, and which fields they tell. Raises typer.BadParameter."""
    if url is None and (api_key_file or api_key_env):
        raise typer.BadParameter("a key belongs to a server: give its --url too")
    endpoint, paths = resources_pb2.Endpoint(name=name), []
    if models is not None:
        paths.append("models")
        for text in models:
            public, _, served = text.partition("=")
            endpoint.models.add(model=public, served_model=served)
    if url is not None:
        paths.append("http")
        http = resources_pb2.HttpBackend(url=url, api_key_file=api_key_file or "", api_key_env=api_key_env or "")
        endpoint.http.CopyFrom(http)
    if framework is not None:
        paths.append("framework")
        endpoint.framework = framework
    if display_name is not None:
        paths.append("display_name")
        endpoint.display_name = display_name
    if audit is not None:
        paths.append("audit")
        endpoint.audit = audit
    return endpoint, paths


def _row(endpoint: resources_pb2.Endpoint) -> tuple[str, ...]:
    reached = {"session": "workers", "http": endpoint.http.url, "globus": "Globus Compute"}
    models = ", ".join(binding.model for binding in endpoint.models)
    return (
        endpoint.name,
        state(endpoint.availability, endpoint.notice),
        endpoint.framework,
        reached[endpoint.WhichOneof("backend") or "session"],
        models or "as reported",
    )
