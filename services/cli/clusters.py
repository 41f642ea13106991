"""`weft clusters`: the sites."""

from __future__ import annotations

from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask
from weft.registry.v1 import registry_pb2, resources_pb2

from services.cli.access_flags import AccessFlags, with_access_flags
from services.cli.globus_flags import endpoint_uuid
from services.cli.resources import call, list_all, print_list, print_one, state

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Name = Annotated[str, typer.Argument(help="clusters/CLUSTER.")]
_DisplayName = Annotated[str | None, typer.Option(help="A name for people.")]
_QueueStatus = Annotated[
    str | None,
    typer.Option(
        metavar="UUID", parser=endpoint_uuid, help="The Globus Compute endpoint that tells its queue; '' for none."
    ),
]


@app.callback()
def clusters() -> None:
    """Manage clusters; needs a key with the role admin."""


@app.command("list")
def list_(as_json: _Json = False) -> None:
    """List clusters."""
    found = list_all("ListClusters", registry_pb2.ListClustersRequest(), "clusters")
    print_list(found, ("Name", "State", "Frameworks", "For people"), _row, as_json)


@app.command()
def show(name: _Name) -> None:
    """Show a cluster, all of it."""
    print_one(call("GetCluster", registry_pb2.GetClusterRequest(name=name)).cluster)


@app.command()
@with_access_flags
def create(
    name: _Name, display_name: _DisplayName = None, queue_status: _QueueStatus = None, *, who: AccessFlags
) -> None:
    """Create a cluster."""
    cluster, _ = _cluster(name, display_name, queue_status)
    who.put(cluster, resources_pb2.Cluster())
    print_one(call("CreateCluster", registry_pb2.CreateClusterRequest(cluster=cluster)).cluster)


@app.command()
@with_access_flags
def update(
    name: _Name, display_name: _DisplayName = None, queue_status: _QueueStatus = None, *, who: AccessFlags
) -> None:
    """Change what is given of a cluster."""
    cluster, paths = _cluster(name, display_name, queue_status)
    if who.given:
        paths += who.put(cluster, call("GetCluster", registry_pb2.GetClusterRequest(name=name)).cluster)
    if not paths:
        raise typer.BadParameter("nothing to change; give at least one option")
    request = registry_pb2.UpdateClusterRequest(cluster=cluster, update_mask=FieldMask(paths=paths))
    print_one(call("UpdateCluster", request).cluster)


@app.command()
def delete(name: _Name) -> None:
    """Delete a cluster that has no endpoints."""
    call("DeleteCluster", registry_pb2.DeleteClusterRequest(name=name))
    print(f"deleted {name}")


@app.command()
def maintain(
    name: _Name, notice: Annotated[str, typer.Option(help="A sentence for users: why, and until when.")] = ""
) -> None:
    """Take a cluster out of service; calls are refused with the notice."""
    _set(name, resources_pb2.AVAILABILITY_MAINTENANCE, notice)
    print(f"{name} is under maintenance; 'weft clusters resume {name}' ends it")


@app.command()
def resume(name: _Name) -> None:
    """Put a cluster back into service."""
    _set(name, resources_pb2.AVAILABILITY_ACTIVE, "")
    print(f"{name} takes calls")


def _cluster(name: str, display_name: str | None, queue_status: str | None) -> tuple[resources_pb2.Cluster, list[str]]:
    """The cluster that the options tell of, and which fields they tell."""
    cluster, paths = resources_pb2.Cluster(name=name), []
    if display_name is not None:
        paths.append("display_name")
        cluster.display_name = display_name
    if queue_status is not None:
        paths.append("queue_status")
        if queue_status:
            cluster.queue_status.endpoint_uuid = queue_status
    return cluster, paths


def _set(name: str, availability: resources_pb2.Availability.ValueType, notice: str) -> None:
    cluster = resources_pb2.Cluster(name=name, availability=availability, notice=notice)
    mask = FieldMask(paths=["availability", "notice"])
    call("UpdateCluster", registry_pb2.UpdateClusterRequest(cluster=cluster, update_mask=mask))


def _row(cluster: resources_pb2.Cluster) -> tuple[str, ...]:
    return (
        cluster.name,
        state(cluster.availability, cluster.notice),
        ", ".join(cluster.frameworks) or "any",
        cluster.display_name,
    )
