"""A whole endpoint directory, as file names and texts; the same for the same input."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from endpoints.core import IDENTITY_MAPPING, core_config, identity_mapping, unit, unit_name, user_environment
from endpoints.functions import Functions
from endpoints.job import LAUNCH_SCRIPT
from endpoints.mistakes import EndpointFilesError
from endpoints.model import Model
from endpoints.reading import HERE, Tree, convert, read, with_overrides
from endpoints.settings import Settings
from endpoints.site import Site
from endpoints.template import user_config_template
from endpoints.variables import schema

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be rendered: a site and a model by name or path, settings, and `KEY=VALUE` changes to all three.

    `model` None is right for the purpose queue-status. `folder` is where the endpoint will be on its own machine; None
    is the site's folder with the endpoint's name.
    """

    site: str
    model: str | None = None
    settings: Tree | None = None
    overrides: Sequence[str] = ()
    name: str | None = None
    folder: str | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """An endpoint directory that is nowhere yet."""

    name: str
    folder: str
    files: dict[str, str]


def render(order: Order, functions: Functions | None) -> Rendered:
    """Renders it. Raises EndpointFilesError."""
    site_name, site_tree = read("sites", order.site)
    model_name, model_tree = read("models", order.model) if order.model is not None else ("", {})
    site_tree, model_tree, settings_tree = with_overrides(site_tree, model_tree, order.settings or {}, order.overrides)
    site = convert(Site, site_tree, f"The site {site_name}")
    settings = convert(Settings, settings_tree, "The endpoint's settings")
    model = convert(Model, model_tree, f"The model {model_name}") if order.model is not None else None
    _check(order, settings, model_tree, model)
    name = order.name or "-".join(filter(None, (site_name, model_name or settings.purpose)))
    if _NAME.fullmatch(name) is None:
        raise EndpointFilesError(f"{name!r} is no name for an endpoint; use letters, digits and '._-', at most 63.")
    folder = order.folder or f"{Path(site.folder).expanduser()}/{name}"
    if re.search(r"[\r\n\0]", folder) or not folder.startswith("/"):
        raise EndpointFilesError(f"The endpoint's folder {folder!r} must be an absolute path in one line.")
    return Rendered(name, folder, _files(name, folder, site, model, settings, functions))


def _check(order: Order, settings: Settings, model_tree: Tree, model: Model | None) -> None:
    if settings.purpose == "queue-status":
        if model is not None:
            raise EndpointFilesError("An endpoint for the queue's status serves no model: leave out --model.")
    elif model is None:
        raise EndpointFilesError(f"An endpoint for the purpose {settings.purpose} needs --model.")
    if order.model is None and model_tree:
        raise EndpointFilesError("--set model.… changes a model, and there is no --model.")
    if settings.function_users and settings.functions is not None:
        raise EndpointFilesError("functions and function_users contradict each other; give one.")
    if not settings.min_blocks <= settings.init_blocks <= settings.max_blocks or settings.min_blocks < 0:
        raise EndpointFilesError("It must be min_blocks ≤ init_blocks ≤ max_blocks.")
    if settings.task_slots < 0 or not 1 <= settings.max_slots <= 10000:
        raise EndpointFilesError("task_slots is 0 or more, and max_slots from 1 to 10000.")
    if settings.heartbeat_period < 5:
        raise EndpointFilesError("heartbeat_period is 5 seconds or more: the agent takes no less.")


def _files(
    name: str, folder: str, site: Site, model: Model | None, settings: Settings, functions: Functions | None
) -> dict[str, str]:
    files = {
        "config.yaml": core_config(name, site, settings, functions, folder),
        "user_config_template.yaml.j2": user_config_template(site, model, settings, functions, folder),
        "user_config_schema.json": json.dumps(schema(site, settings), indent=2) + "\n",
        "user_environment.yaml": user_environment(site),
    }
    if settings.identity_mapping is not None:
        files[IDENTITY_MAPPING] = identity_mapping(settings.identity_mapping)
    if settings.purpose != "queue-status":
        files[LAUNCH_SCRIPT] = (HERE / LAUNCH_SCRIPT).read_text()
    if settings.systemd is not None:
        files[unit_name(folder)] = unit(settings.systemd, folder)
    return files
