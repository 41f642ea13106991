"""`weft endpoints render` and `weft endpoints check`: the folders that Globus Compute's agent starts endpoints from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from endpoints.agent import find_python, run_check
from endpoints.functions import read_functions
from endpoints.mistakes import EndpointFilesError
from endpoints.reading import known, override, read, read_tree
from endpoints.render import Order, render
from endpoints.writing import write
from services.cli.failures import CommandError


def register(app: typer.Typer) -> None:
    """Adds the two to `weft endpoints`."""
    app.command("render")(render_command)
    app.command("check")(check_command)


def render_command(
    site: Annotated[str | None, typer.Option(help="A site of --list, or the path of a YAML file.")] = None,
    model: Annotated[str | None, typer.Option(help="A model of --list, or the path of a YAML file.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, site.KEY or model.KEY.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option(help="A YAML file with settings, and site: and model: changes.")
    ] = None,
    functions: Annotated[Path | None, typer.Option(help="What 'weft functions register' wrote: what may run.")] = None,
    name: Annotated[str | None, typer.Option(help="The endpoint's name (default: SITE-MODEL).")] = None,
    output: Annotated[Path | None, typer.Option(help="The folder to write (default: where it is installed).")] = None,
    installed_at: Annotated[
        Path | None, typer.Option(help="Where it will be on its own machine, if that is not --output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Change a registered endpoint; it keeps its UUID.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the sites and models that come with Weft.")] = False,
) -> None:
    """Write an endpoint directory, ready for 'globus-compute-endpoint start'."""
    if list_:
        _list()
        return
    if site is None:
        raise typer.BadParameter("give --site, or --list to see which there are")
    place = installed_at or output
    try:
        order = Order(
            site=site,
            model=model,
            settings=read_tree(settings) if settings is not None else None,
            overrides=overrides or [],
            name=name or (output.absolute().name if output is not None else None),
            folder=str(place.expanduser().absolute()) if place is not None else None,
        )
        rendered = render(order, read_functions(functions) if functions is not None else None)
        folder = output if output is not None else Path(rendered.folder)
        changed = write(rendered, folder, force=force)
    except EndpointFilesError as error:
        raise CommandError(str(error)) from error
    for path in changed:
        print(f"wrote {path}")
    if not changed:
        print(f"{folder} is as it should be")
    print(f"next: weft endpoints check {folder}, and on the endpoint's machine: {_start(rendered.folder)}")


def check_command(
    folder: Annotated[Path, typer.Argument(help="The endpoint directory.")],
    python: Annotated[
        Path | None, typer.Option(help="The Python with the agent's package (default: ours, else the agent's on PATH).")
    ] = None,
    variables: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A variable of user_endpoint_config.")
    ] = None,
    functions: Annotated[Path | None, typer.Option(help="What 'weft functions register' wrote: is it allowed?")] = None,
    identity: Annotated[str | None, typer.Option(help="A Globus identity that must map to a local user.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check an endpoint directory with the agent's own loaders."""
    flags = ["--identity", identity] if identity is not None else []
    try:
        for key, value in map(override, variables or []):
            flags += ["--set", f"{key}={json.dumps(value, default=str)}"]
        if functions is not None:
            read_functions(functions)
            flags += ["--functions", str(functions.absolute())]
        if not any((folder / name).exists() for name in ("config.yaml", "user_config_template.yaml.j2")):
            raise EndpointFilesError(
                f"{folder} is no endpoint directory: it has no config.yaml. 'weft endpoints render' says where it has "
                "written one, and 'globus-compute-endpoint list' names those in ~/.globus_compute."
            )
        (found,) = run_check([folder], find_python(python), flags)
    except EndpointFilesError as error:
        raise CommandError(str(error)) from error
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        for one in found:
            print(_told(one))
    errors = sum(not one["warning"] for one in found)
    if errors:
        raise typer.Exit(1)
    if not as_json:
        warnings = f", with {len(found)} warning{'s' * (len(found) > 1)}" if found else ""
        print(f"{folder} is well{warnings}")


def _told(finding: dict[str, Any]) -> str:
    place = f"{finding['file']}:{finding['line']}" if finding["line"] else finding["file"]
    field = f" {finding['field']}:" if finding["field"] else ""
    kind = " warning:" if finding["warning"] else ""
    return f"{place}:{field}{kind} {finding['problem']}; {finding['remedy']}."


def _start(folder: str) -> str:
    parent, _, name = folder.rpartition("/")
    default = str(Path("~/.globus_compute").expanduser())
    variable = "" if parent == default else f"GLOBUS_COMPUTE_USER_DIR={parent} "
    return f"{variable}globus-compute-endpoint start {name}"


def _list() -> None:
    for kind in ("sites", "models"):
        print(f"{kind}:")
        for name in known(kind):
            print(f"  {name:22} {read(kind, name)[1].get('about', '')}")
