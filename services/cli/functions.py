"""`weft functions`: what Globus Compute runs for Weft, registered, listed and verified."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from weft.registry.v1 import registry_pb2

from services.cli.check import Check, print_check
from services.cli.failures import CommandError
from services.cli.function_book import FunctionBook
from services.cli.function_check import Allowed, Registered, Use, check_uses, check_versions, uses_of
from services.cli.function_file import iso
from services.cli.function_plan import DAY, Registration, plan
from services.cli.globus import open_control, told
from services.cli.globus_flags import endpoint_uuid
from services.cli.resources import list_all
from services.cli.settings import load
from services.cli.tables import print_table
from services.core.globus import FunctionVersion
from services.globus.sources import MODULES, Source, read_source, sha256_of
from services.runtime.config import Config

if TYPE_CHECKING:
    from services.globus.control import Control

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

_Names = Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(n[10:] for n in MODULES)}; all by default.")]
_File = Annotated[
    Path | None, typer.Option(help="The file that keeps the UUIDs; $WEFT_HOME/functions.yaml by default.")
]
_NoRegistry = Annotated[bool, typer.Option("--no-registry", help="Use the file alone: no mesh need run.")]
_Credentials = Annotated[str, typer.Option(help="A name in 'launcher.credentials' of the configuration.")]
_Folder = Annotated[Path | None, typer.Option("--sources", help="A folder with sources in the place of Weft's own.")]
_Days = Annotated[float, typer.Option(min=0, help="Days after which a high-assurance function is registered anew.")]
_RENEW_AFTER = 60.0


@app.callback()
def functions() -> None:
    """Register Weft's functions with Globus Compute; with the registry, needs a key with the role admin."""


@app.command()
def register(
    names: _Names = None,
    ha_endpoint: Annotated[
        list[str] | None,
        typer.Option(
            metavar="UUID",
            parser=endpoint_uuid,
            help="Register for this high-assurance endpoint alone; may be given again.",
        ),
    ] = None,
    file: _File = None,
    no_registry: _NoRegistry = False,
    credentials: _Credentials = "",
    keep: Annotated[int, typer.Option(min=1, help="Versions of a function that are kept side by side.")] = 3,
    renew_after: _Days = _RENEW_AFTER,
    folder: _Folder = None,
    force: Annotated[bool, typer.Option("--force", help="Register even what has not changed.")] = False,
) -> None:
    """Register what has changed, and keep its UUIDs in the registry and in a file."""
    config = load()
    sources = _sources(names, folder)
    book = _book(config, file, no_registry)
    with told():
        control = open_control(config, credentials)
    made = 0
    try:
        for source in sources:
            versions = book.versions.get(source.name, ())
            states = [_registered(control, source, version) for version in versions]
            gone = frozenset(state.version.uuid for state in states if not state.sha256 and not state.trouble)
            todo = plan(
                source,
                versions,
                ha_endpoints=ha_endpoint or (),
                gone=gone,
                now=time.time(),
                renew_after=renew_after * DAY,
                force=force,
            )
            book.drop(source.name, gone)
            for registration in todo:
                uuid = _register(control, book, registration, keep)
                made += 1
                print(f"registered  {source.name:<24} {uuid}  ({registration.why})")
            if not todo:
                print(f"unchanged   {source.name:<24} {versions[0].uuid}")
    finally:
        book.save()
    print(f"{made} registered; kept in {book.file}{'' if no_registry else ' and in the registry'}.")
    if made:
        print("Endpoints that list 'allowed_functions' need the new UUIDs: 'weft endpoints render', and restart them.")


@app.command("list")
def list_(
    file: _File = None,
    no_registry: _NoRegistry = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what is registered, newest first."""
    book = _book(load(), file, no_registry)
    rows = [
        {
            "name": name,
            "uuid": version.uuid,
            "sha256": version.sha256,
            "register_time": iso(version.register_time),
            "ha_endpoint_uuid": version.ha_endpoint_uuid,
        }
        for name in sorted(book.versions)
        for version in book.versions[name]
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("Name", "UUID", "Source", "Registered", "High assurance")
    for row in rows:
        table.add_row(
            row["name"], row["uuid"], row["sha256"][:12], row["register_time"][:10], row["ha_endpoint_uuid"] or "no"
        )
    print_table(table)


@app.command()
def verify(
    names: _Names = None,
    file: _File = None,
    no_registry: _NoRegistry = False,
    credentials: _Credentials = "",
    renew_after: _Days = _RENEW_AFTER,
    folder: _Folder = None,
) -> None:
    """Check that Globus Compute has what is registered, and that endpoints allow it; exits with 1 if not."""
    config = load()
    book = _book(config, file, no_registry)
    with told():
        control = open_control(config, credentials)
    sources = _sources(names, folder)
    checks: list[Check] = []
    for source in sources:
        states = [_registered(control, source, version) for version in book.versions.get(source.name, ())]
        checks += check_versions(source, states, now=time.time(), renew_after=renew_after * DAY)
    if not no_registry:
        uses = [use for use in _uses() if use.function in {source.name for source in sources}]
        checks += check_uses(uses, book.versions, _allowed(config, uses))
    console = Console(highlight=False)
    for check in checks:
        print_check(check, console, width=max(len(check.part) for check in checks) + 2)
    if not all(check.good for check in checks):
        raise typer.Exit(1)


def _sources(names: list[str] | None, folder: Path | None) -> list[Source]:
    wanted = [f"functions/{name.removeprefix('functions/')}" for name in names or MODULES]
    if unknown := [name for name in wanted if name not in MODULES]:
        known = ", ".join(name.removeprefix("functions/") for name in MODULES)
        raise typer.BadParameter(f"there is no function '{unknown[0].removeprefix('functions/')}'; there are {known}")
    return [read_source(name, folder) for name in wanted]


def _book(config: Config, file: Path | None, no_registry: bool) -> FunctionBook:
    return FunctionBook(file or config.home / "functions.yaml", registry=not no_registry)


def _register(control: Control, book: FunctionBook, registration: Registration, keep: int) -> str:
    source = registration.source
    with told():
        uuid = control.register(source, ha_endpoint_uuid=registration.ha_endpoint_uuid)
    version = FunctionVersion(uuid, source.sha256, round(time.time(), 3), registration.ha_endpoint_uuid)
    book.add(source.name, version, keep=keep)
    return uuid


def _registered(control: Control, source: Source, version: FunctionVersion) -> Registered:
    from services.globus.errors import GlobusError, Kind

    try:
        return Registered(version, sha256_of(control.source_of(version.uuid, source.function)))
    except GlobusError as error:
        if error.kind is Kind.UNKNOWN_FUNCTION:
            return Registered(version)
        if error.kind in (Kind.BAD_CREDENTIALS, Kind.SERVICE_UNAVAILABLE):
            raise CommandError(f"{error.sentence} {error.remedy}") from error
        return Registered(version, trouble=error.sentence)


def _uses() -> list[Use]:
    clusters = list_all("ListClusters", registry_pb2.ListClustersRequest(), "clusters")
    endpoints = list_all("ListEndpoints", registry_pb2.ListEndpointsRequest(), "endpoints")
    return uses_of(clusters, endpoints)


def _allowed(config: Config, uses: list[Use]) -> dict[str, Allowed]:
    """Each endpoint asked once, with the credentials of its first user."""
    from services.globus.errors import GlobusError

    found: dict[str, Allowed] = {}
    controls: dict[str, Control] = {}
    for use in uses:
        if use.endpoint_uuid in found:
            continue
        try:
            if use.credentials not in controls:
                controls[use.credentials] = open_control(config, use.credentials)
            found[use.endpoint_uuid] = Allowed(controls[use.credentials].allowed_functions(use.endpoint_uuid))
        except GlobusError as error:
            found[use.endpoint_uuid] = Allowed(trouble=error.sentence, remedy=error.remedy)
        except CommandError as error:
            found[use.endpoint_uuid] = Allowed(trouble=str(error), remedy="name credentials that the configuration has")
    return found
