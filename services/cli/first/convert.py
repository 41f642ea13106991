"""FIRST's clusters, endpoints and federated endpoints as Weft's clusters, endpoints and routes.

The older shape has the fields of Globus Compute beside the others, the newer one in `config`, where the adapter's kind
decides what they are (https://github.com/argonne-lcf/FIRST, `resource_server_async/endpoints`).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.cli.failures import CommandError
from services.cli.first.backends import read_function, read_globus, read_http
from services.cli.first.fields import Fields, Problems
from services.cli.first.files import read_entries
from services.core.catalogue import (
    AccessPolicy,
    Cluster,
    Endpoint,
    ModelBinding,
    Resource,
    Route,
    RouteTarget,
)
from services.core.errors import ServiceError
from services.core.names import slug
from services.core.quota import Limits, Quota
from services.registry.validation import check_resource
from services.rpc.resources import resource_to_proto

_FIRST_NAMES: Final = {
    "frameworks": "frameworks",
    "operations": "openai_endpoints",
    "status_url": "config.status_url",
    "queue_status.endpoint_uuid": "config.qstat_endpoint_uuid",
    "queue_status.function_uuid": "config.qstat_function_uuid",
    "framework": "framework",
    "models.model": "model",
    "http.url": "config.api_url",
    "http.api_key_env": "config.api_key_env_name",
    "globus.inference.endpoint_uuid": "config.endpoint_uuid",
    "globus.inference.function_uuid": "config.function_uuid",
    "globus.batch.endpoint_uuid": "config.batch_endpoint_uuid",
    "globus.batch.function_uuid": "config.batch_function_uuid",
    "globus.api_port": "config.api_port",
    "access.allowed_globus_groups": "allowed_globus_groups",
    "access.allowed_domains": "allowed_domains",
    "model": "target_model_name",
    "display_name": "name",
    "description": "description",
    "targets": "targets",
    "targets.endpoint": "targets",
    "targets.model": "targets",
}
"""FIRST's name of a field, by Weft's."""

_TPM_DEFAULTS: Final = {"tpm_model": 100_000, "tpm_user": 60_000}
"""Tokens per minute, of all callers of an endpoint and of each, as FIRST's `Endpoint` has them (its migration 0012)."""


@dataclass(slots=True)
class Imported:
    """What the files hold. `implied` are clusters that endpoints name and no file defines; `notes` say what is not as
    it was in the files.
    """

    clusters: dict[str, Cluster] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    routes: dict[str, Route] = field(default_factory=dict)
    implied: dict[str, Cluster] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class FixtureError(CommandError):
    """The files cannot be imported; the message lists everything that is wrong with them."""


def read_fixtures(files: Iterable[Path]) -> Imported:
    """What the files hold, all together. Raises `FixtureError`."""
    problems = Problems()
    entries = read_entries(files, problems)
    importer = _Importer(problems)
    for kind, take in (
        ("cluster", importer.cluster),
        ("endpoint", importer.endpoint),
        ("federated", importer.federated),
    ):
        for entry in entries:
            if entry.kind == kind:
                take(entry.fields)
    if problems.sentences:
        count = len(problems.sentences)
        head = f"Nothing was imported, as the files have {count} problem{'s' if count > 1 else ''}:"
        raise FixtureError("\n  ".join([head, *problems.sentences]))
    return importer.imported


class _Importer:
    """Takes one entry after another: clusters, then endpoints, then federated endpoints."""

    def __init__(self, problems: Problems) -> None:
        self.imported = Imported()
        self._problems = problems
        self._by_slug: dict[str, Endpoint] = {}
        self._where: dict[str, str] = {}
        self._models: dict[str, str] = {}

    def cluster(self, fields: Fields) -> None:
        name = f"clusters/{self._id(fields, 'cluster_name', fields.text('cluster_name', required=True))}"
        fields.text("cluster_adapter")
        config = fields.inner("config")
        cluster = Cluster(
            name,
            frameworks=tuple(text.lower() for text in fields.texts("frameworks")),
            operations=tuple(_operation(text) for text in fields.texts("openai_endpoints")),
            queue_status=read_function(config, "qstat_"),
            status_url=config.text("status_url"),
            access=_access(fields),
        )
        config.finish()
        fields.finish()
        if self._check(fields, cluster):
            self.imported.clusters[name] = cluster

    def endpoint(self, fields: Fields) -> None:
        model, framework = fields.text("model", required=True), fields.text("framework", required=True)
        cluster, text = fields.text("cluster", required=True), fields.text("endpoint_slug")
        parent = f"clusters/{self._id(fields, 'cluster', cluster)}"
        text = text or slug(f"{cluster}-{framework}-{model}")  # as FIRST does for an empty one
        name = f"{parent}/endpoints/{self._id(fields, 'endpoint_slug', text)}"
        adapter = fields.text("endpoint_adapter")
        nested = "config" in fields
        config = fields.inner("config") if nested else fields
        is_http = "api_url" in config or adapter.rpartition(".")[2] == "DirectAPIEndpoint"
        read_backend = read_http if is_http else read_globus
        backend = read_backend(config, lambda what: self._note(fields, what))
        endpoint = Endpoint(
            name,
            backend,
            framework=framework.lower(),
            models=(ModelBinding(model),),
            access=_access(fields),
            limits=self._limits(fields, nested),
        )
        if nested:
            config.finish()
        fields.finish()
        if text in self._by_slug:
            fields.complain("endpoint_slug", f"is '{text}', as in another entry; each endpoint needs its own")
        elif self._check(fields, endpoint):
            self.imported.endpoints[name] = endpoint
            if parent not in self.imported.clusters:
                self.imported.implied[parent] = Cluster(parent)
        self._by_slug[text] = endpoint

    def _limits(self, fields: Fields, nested: bool) -> Limits:
        """FIRST's database fills in what a fixture of the newer shape leaves out; the older one knows no limits."""
        missing = [name for name in _TPM_DEFAULTS if nested and name not in fields]
        if missing:
            said = " and ".join(f"{_TPM_DEFAULTS[name]} for '{name}'" for name in missing)
            self._note(fields, f"gets FIRST's own limits of tokens per minute where it names none: {said}")
        together, each = (
            _TPM_DEFAULTS[name] if name in missing else fields.number(name) for name in ("tpm_model", "tpm_user")
        )
        return Limits(Quota(tokens_per_minute=together), Quota(tokens_per_minute=each))

    def federated(self, fields: Fields) -> None:
        model = fields.text("target_model_name", required=True)
        text = fields.text("slug") or slug(model)
        route = Route(
            f"routes/{self._id(fields, 'slug', text)}",
            model,
            tuple(self._target(target, model) for target in fields.list_of("targets")),
            display_name=fields.text("name"),
            description=fields.text("description"),
        )
        fields.finish()
        if model and model in self._models:
            fields.complain("target_model_name", f"is '{model}', which {self._models[model]} claims already")
        self._models[model] = fields.where
        if self._check(fields, route):
            self.imported.routes[route.name] = route

    def _target(self, target: Fields, model: str) -> RouteTarget:
        text = target.text("endpoint_slug", required=True)
        cluster, served = target.text("cluster"), target.text("model") or model
        target.text("framework")
        for known_at_the_endpoint in ("endpoint_uuid", "function_uuid"):
            target.text(known_at_the_endpoint)
        target.number("api_port")
        target.finish()
        endpoint = self._by_slug.get(text)
        if endpoint is None:
            # It may have been imported before; the registry refuses it if not.
            if not cluster:
                target.complain("cluster", "is missing, and no file has an endpoint of that slug")
            return RouteTarget(f"clusters/{slug(cluster)}/endpoints/{slug(text)}", "" if served == model else served)
        if served not in [binding.model for binding in endpoint.models]:
            target.complain("model", f"is '{served}', but '{text}' serves '{endpoint.models[0].model}'")
        if cluster and f"clusters/{slug(cluster)}" != endpoint.cluster:
            target.complain("cluster", f"is '{cluster}', but '{text}' is in '{endpoint.cluster}'")
        return RouteTarget(endpoint.name, "" if served == model else served)

    def _id(self, fields: Fields, name: str, text: str) -> str:
        made = slug(text)
        if made != text and text:
            self._note(fields, f"'{text}' becomes the id '{made}'")
            if not made:
                fields.complain(name, f"is '{text}', of which no id can be made; use letters and digits")
        return made or "x"

    def _note(self, fields: Fields, what: str) -> None:
        self.imported.notes.append(f"{fields.where}: {what}")

    def _check(self, fields: Fields, resource: Resource) -> bool:
        """Whether the registry would take it, as far as can be told from here."""
        if (other := self._where.get(resource.name)) is not None:
            self._problems.add(fields.where, f"would be '{resource.name}', as {other} is already; change its id")
            return False
        self._where[resource.name] = fields.where
        kind = type(resource).__name__.lower()
        try:
            check_resource(resource_to_proto(resource), kind)
        except ServiceError as error:
            path = re.sub(r"\[\d+\]", "", error.param or "").removeprefix(f"{kind}.")
            named = _FIRST_NAMES.get(path, "")
            if "config" not in fields:
                named = named.removeprefix("config.")
            if not named:
                self._problems.add(fields.where, error.message)
            elif not fields.faulty(named):
                fields.complain(named, error.message.partition("' ")[2].rstrip("."))
            return False
        return True


def _access(fields: Fields) -> AccessPolicy:
    groups = (_small_uuid(group) for group in fields.texts("allowed_globus_groups"))
    return AccessPolicy(tuple(dict.fromkeys(groups)), fields.texts("allowed_domains"))


def _small_uuid(group: str) -> str:
    """UUIDs are compared in small letters; names of groups as they are."""
    try:
        return str(uuid.UUID(group))
    except ValueError:
        return group


def _operation(text: str) -> str:
    """FIRST's documents have `/v1/completions` in places, its code `completions`."""
    return text.strip("/").removeprefix("v1/")
