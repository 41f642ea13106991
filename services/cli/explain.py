"""`weft auth explain`: who may use what, and why, by the same function that decides when somebody calls."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from weft.auth.v1 import auth_pb2

from services.cli.auth_calls import call
from services.cli.flags import seconds
from services.cli.resources import present_catalogue
from services.core.access import Ask, Decision, MeshPolicy, Step, admit, decide
from services.core.catalogue import Catalogue, Endpoint
from services.core.errors import Reason, ServiceError
from services.core.principal import CredentialKind, Identity, Permissions, Principal
from services.router.targets import build_index
from services.rpc.policy import policy_from_proto
from services.rpc.principal import principal_from_proto

_SEVERAL: Final = "several times for several; '' for none"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is supposed of a caller, instead of what was last seen; None where nothing is."""

    groups: list[str] | None = None
    domain: str | None = None
    provider: str | None = None
    policies: list[str] | None = None
    logged_in: float | None = None
    mfa: bool | None = None

    def put(self, identity: Identity, now: float) -> Identity:
        """The identity that these facts make of one."""
        changes: dict[str, Any] = {
            "groups": None if self.groups is None else frozenset(self.groups) - {""},
            "domain": self.domain,
            "identity_provider": self.provider,
            "authentication_policies": None if self.policies is None else frozenset(self.policies) - {""},
            "authenticated_at": None if self.logged_in is None else now - self.logged_in,
            "mfa": self.mfa,
        }
        return dataclasses.replace(identity, **{name: value for name, value in changes.items() if value is not None})


def register(app: typer.Typer) -> None:
    """Adds the command to `weft auth`."""
    app.command("explain")(explain)


def explain(
    principal: Annotated[str, typer.Option("--as", metavar="PRINCIPAL", help="users/USER, services/…, or keys/KEY.")],
    model: Annotated[str, typer.Option(help="The model, by its public name.")],
    operation: Annotated[str, typer.Option(help="As in OpenAI's paths without /v1/.")] = "chat/completions",
    cluster: Annotated[str, typer.Option(help="The cluster, if the URL of the call names one.")] = "",
    framework: Annotated[str, typer.Option(help="The framework, if the URL of the call names one.")] = "",
    group: Annotated[list[str] | None, typer.Option(help=f"Suppose that they are in a group; {_SEVERAL}.")] = None,
    domain: Annotated[str | None, typer.Option(help="Suppose that their identity is of this domain.")] = None,
    provider: Annotated[str | None, typer.Option(help="Suppose this identity provider.")] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help=f"Suppose that their session satisfies a policy; {_SEVERAL}.")
    ] = None,
    logged_in: Annotated[str | None, typer.Option(metavar="TIME", help="Suppose a login so long ago: 90s, 2h.")] = None,
    mfa: Annotated[bool | None, typer.Option("--mfa/--no-mfa", help="Suppose a second factor, or none.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say whether somebody may call a model, and why. It tells the policies, and where it would go; status 1 if not.

    What is not supposed by an option is as it was when they last called.
    """
    now = time.time()
    ago = seconds(logged_in, "--logged-in") if logged_in is not None else None
    facts = Facts(group, domain, provider, policy, ago, mfa)
    mesh = policy_from_proto(call("GetPolicy", auth_pb2.GetPolicyRequest()))
    caller, barred = _caller(principal, facts, now)
    path = operation if operation.startswith("/") else f"/v1/{operation}"
    ask = Ask(path, model, cluster.removeprefix("clusters/"), framework)
    decision, notes = judged(caller, barred, mesh, ask, present_catalogue(), now)
    if as_json:
        print(json.dumps(_as_dict(caller, decision, notes), indent=2))
    else:
        print("\n".join(lines(decision, notes)))
    if decision.error is not None:
        raise typer.Exit(1)


def judged(
    caller: Principal, barred: ServiceError | None, mesh: MeshPolicy, ask: Ask, catalogue: Catalogue, now: float
) -> tuple[Decision, list[str]]:
    """What becomes of a call: as auth and then a router decide; and what is only supposed. `barred` tells that the
    credential counts for nothing, whatever policies say.
    """
    if barred is not None:
        return Decision((Step("auth", False, barred.message),), error=barred), []
    verdict = admit(mesh, caller, now)
    steps = (Step("auth", True, "the credential counts"), Step("the mesh", verdict.reason is None, verdict.why))
    if verdict.reason is not None:
        error = ServiceError(verdict.reason, f"'{caller.name}' is not admitted here: {verdict.why}.")
        return Decision(steps, error=error), []
    serving, notes = _serving(catalogue, ask)
    decision = decide(caller, ask, catalogue, serving, now)
    until = min(decision.until, verdict.until)
    return dataclasses.replace(decision, steps=(*steps, *decision.steps), until=until), notes


def lines(decision: Decision, notes: Sequence[str]) -> list[str]:
    """The decision, for people."""
    told = [f"{'✓' if step.admitted else '✗'} {step.subject}: {step.why}" for step in decision.steps]
    told += [f"note: {note}" for note in notes]
    if decision.error is not None:
        error = decision.error
        return [*told, f"refused: {error.kind.http} {error.reason.name}: {error.message}"]
    until = "" if decision.until == math.inf else f", until {datetime.fromtimestamp(decision.until):%Y-%m-%d %H:%M:%S}"
    return [*told, f"allowed{until}: {', '.join(sorted(decision.endpoints)) or 'by no endpoint that exists'}"]


def _as_dict(caller: Principal, decision: Decision, notes: Sequence[str]) -> dict[str, Any]:
    error = decision.error
    return {
        "principal": caller.name,
        "allowed": error is None,
        "steps": [dataclasses.asdict(step) for step in decision.steps],
        "endpoints": sorted(decision.endpoints),
        "until": None if decision.until == math.inf else decision.until,
        "reason": error.reason.name if error else None,
        "status": error.kind.http if error else 200,
        "message": error.message if error else None,
        "notes": list(notes),
    }


def _caller(name: str, facts: Facts, now: float) -> tuple[Principal, ServiceError | None]:
    """Who that is, as last seen and as supposed, and why auth would not hear of them. Raises `ServiceError`, also for
    somebody of whom nothing is known, or supposed.
    """
    try:
        answer = call("GetPrincipal", auth_pb2.GetPrincipalRequest(name=name))
    except ServiceError as error:
        if error.reason is not Reason.RESOURCE_NOT_FOUND or name.startswith("keys/"):
            raise
        if facts == Facts():
            message = f"{error.message} Suppose who they are: --domain, --group, --provider, --logged-in, --mfa."
            raise ServiceError(error.reason, message) from None
        identity = Identity(CredentialKind.GLOBUS, domain=name.rpartition("@")[2] if "@" in name else "")
        identity = dataclasses.replace(identity, service_account=name.startswith("services/"))
        known, barred = Principal(name, permissions=Permissions(("*",)), identity=identity), None
    else:
        known, barred = principal_from_proto(answer.principal), _barred(name, denied=answer.denied, now=now)
    return dataclasses.replace(known, identity=facts.put(known.identity, now)), barred


def _barred(name: str, *, denied: bool, now: float) -> ServiceError | None:
    if denied:
        return ServiceError(Reason.IDENTITY_FORBIDDEN, "The principal is denied; 'weft auth admit' ends that.")
    if not name.startswith("keys/"):
        return None
    key = call("GetKey", auth_pb2.GetKeyRequest(name=name)).key
    if key.HasField("revoke_time") and key.revoke_time.ToMilliseconds() <= now * 1000:
        return ServiceError(Reason.CREDENTIAL_INVALID, f"'{name}' is revoked; make another with 'weft keys create'.")
    if key.HasField("expire_time") and key.expire_time.ToMilliseconds() <= now * 1000:
        return ServiceError(Reason.CREDENTIAL_EXPIRED, f"'{name}' has expired; make another with 'weft keys create'.")
    return None


def _serving(catalogue: Catalogue, ask: Ask) -> tuple[tuple[Endpoint, ...] | None, list[str]]:
    """The endpoints that the model leads to, as a router has them: which models the workers of endpoints report that
    list none, it alone knows.
    """
    pinned = (ask.model, ask.cluster, ask.framework)
    found = build_index(catalogue, (), {}).serving(*pinned)
    reporting = {endpoint.name: [ask.model] for endpoint in catalogue.open_endpoints}
    if found is not None or not reporting:
        return found, []
    found = build_index(catalogue, (), reporting).serving(*pinned)
    if found is None:
        return None, []
    names = ", ".join(endpoint.name for endpoint in found)
    return found, [f"no endpoint lists '{ask.model}'; supposed is that workers report it, of {names}"]
