"""What `weft functions verify` looks at: what is registered, and what the endpoints of the catalogue may run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from weft.registry.v1 import resources_pb2

from services.cli.check import Check
from services.cli.function_plan import DAY, EXPIRY_DAYS
from services.core.globus import FunctionVersion
from services.globus.sources import Source


@dataclass(frozen=True, slots=True)
class Use:
    """A function that an endpoint of the catalogue needs. `function_uuid` is empty where it is left to Weft."""

    user: str
    endpoint_uuid: str
    function: str
    function_uuid: str = ""
    credentials: str = ""


@dataclass(frozen=True, slots=True)
class Registered:
    """What Globus Compute says of one version: the SHA-256 of its source, empty if it is gone; or `trouble`."""

    version: FunctionVersion
    sha256: str = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Allowed:
    """The functions that an endpoint of Globus Compute may run, None for all; or `trouble` with its remedy."""

    uuids: frozenset[str] | None = None
    trouble: str = ""
    remedy: str = field(default="", compare=False)


def uses_of(clusters: Iterable[resources_pb2.Cluster], endpoints: Iterable[resources_pb2.Endpoint]) -> list[Use]:
    """What the endpoints of Globus Compute in the catalogue are needed for."""
    found: list[Use] = []

    def add(user: str, reference: resources_pb2.GlobusFunction, kind: str, credentials: str) -> None:
        function = f"functions/{kind}"
        found.append(Use(user, reference.endpoint_uuid, function, reference.function_uuid, credentials))

    for cluster in clusters:
        if cluster.HasField("queue_status"):
            add(cluster.name, cluster.queue_status, "queue-status", "")
    for endpoint in endpoints:
        if endpoint.WhichOneof("backend") != "globus":
            continue
        globus = endpoint.globus
        if globus.HasField("launch"):
            add(endpoint.name, globus.launch.start_worker, "start-worker", globus.credentials)
        if globus.HasField("inference"):
            add(endpoint.name, globus.inference, "inference", globus.credentials)
        elif globus.call_mode != resources_pb2.CALL_MODE_SESSION:
            at = resources_pb2.GlobusFunction(endpoint_uuid=globus.launch.start_worker.endpoint_uuid)
            add(endpoint.name, at, "inference", globus.credentials)
        if globus.HasField("batch"):
            add(endpoint.name, globus.batch, "batch", globus.credentials)
    return found


def check_versions(
    source: Source, registered: Sequence[Registered], *, now: float, renew_after: float
) -> Iterator[Check]:
    """The versions of one function, newest first; times in seconds, `now` since 1970."""
    id = source.name.removeprefix("functions/")
    register = f"run 'weft functions register {id}'"
    newest: set[str] = set()
    if not registered:
        yield Check(source.name, "is not registered", register)
    for one in registered:
        version = one.version
        is_newest = version.ha_endpoint_uuid not in newest
        newest.add(version.ha_endpoint_uuid)
        part = f"{source.name} {version.uuid}"
        age = (now - version.register_time) / DAY
        if one.trouble:
            yield Check(part, one.trouble, "try again; if it stays, register it anew with --force")
        elif not one.sha256:
            yield Check(part, "Globus Compute has it no more", register)
        elif one.sha256 != version.sha256:
            yield Check(part, "its source at Globus Compute is not what was registered", f"{register} --force")
        elif is_newest and version.sha256 != source.sha256:
            yield Check(part, "is of an older Weft than this one", register)
        elif is_newest and version.ha_endpoint_uuid and now - version.register_time >= renew_after:
            found = f"is {age:.0f} days old, and Globus Compute deletes it after {EXPIRY_DAYS} days without use"
            yield Check(part, found, register)
        else:
            where = f", for {version.ha_endpoint_uuid}" if version.ha_endpoint_uuid else ""
            kept = "" if is_newest else ", kept for endpoints that allow only it"
            yield Check(part, f"is there{where}{kept}")


def check_uses(
    uses: Iterable[Use],
    versions: Mapping[str, Sequence[FunctionVersion]],
    allowed: Mapping[str, Allowed],
) -> Iterator[Check]:
    """Whether the endpoints may run what they are needed for; `allowed` is by the endpoint's UUID."""
    for use in uses:
        answer = allowed[use.endpoint_uuid]
        part = f"{use.user} {use.function.removeprefix('functions/')}"
        known = (
            [use.function_uuid]
            if use.function_uuid
            else usable_versions(versions.get(use.function, ()), use.endpoint_uuid)
        )
        if answer.trouble:
            yield Check(part, answer.trouble, answer.remedy)
        elif not known:
            yield Check(part, f"no version of {use.function} is registered", "run 'weft functions register'")
        elif answer.uuids is None:
            yield Check(part, f"endpoint {use.endpoint_uuid} allows every function")
        elif known[0] in answer.uuids:
            yield Check(part, f"endpoint {use.endpoint_uuid} allows {known[0]}")
        elif older := next((uuid for uuid in known if uuid in answer.uuids), ""):
            yield Check(
                part, f"endpoint {use.endpoint_uuid} allows the older {older}; render and restart it to upgrade"
            )
        else:
            found = f"endpoint {use.endpoint_uuid} does not allow {known[0]}"
            yield Check(part, found, allow_remedy(known[0]))


def allow_remedy(function_uuid: str) -> str:
    """What to do where an endpoint does not allow a function."""
    return (
        f"add {function_uuid} to 'allowed_functions' in the endpoint's config.yaml ('weft endpoints render' does), and"
        " start the endpoint again"
    )


def usable_versions(versions: Iterable[FunctionVersion], endpoint_uuid: str) -> list[str]:
    """The UUIDs that an endpoint may run: those of this high-assurance endpoint before those for all, as the launcher
    takes them, and newest first.
    """
    usable = [version for version in versions if version.ha_endpoint_uuid in ("", endpoint_uuid)]
    return [version.uuid for version in sorted(usable, key=lambda version: not version.ha_endpoint_uuid)]
