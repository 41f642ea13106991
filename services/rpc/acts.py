"""Which RPCs are acts, that the audit log tells of. Every RPC of Weft stands here; one that does not counts as ACT, so
that a new one is written until somebody thinks about it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class Kind(enum.Enum):
    """What an RPC is to the audit log."""

    ACT = "act"
    """Somebody changes something. It is on the disk before it is done; where the log cannot be written, it is not
    done.
    """
    NOTED = "noted"
    """The mesh changes something by itself, on the way of calls: written when it is done, and never held up, as
    otherwise a full disk would end the service of users.
    """
    PLAIN = "plain"
    """Changes nothing, or only what is forgotten unless it is repeated, or keeps a record of its own."""
    CALLS = "calls"
    """Carries calls to models, whose refusals are told where the model is known."""


def _of(service: str, kind: Kind, *methods: str) -> dict[str, Kind]:
    return {f"/weft.{service}/{method}": kind for method in methods}


_AUTH: Final = "auth.v1.AuthService"
_REGISTRY: Final = "registry.v1.RegistryService"
_LAUNCHER: Final = "launcher.v1.LauncherService"
_INFERENCE: Final = "inference.v1.InferenceService"
_SESSION: Final = "session.v1.SessionService"
_CHANGED: Final = ("Cluster", "Endpoint", "Route", "Function")

KINDS: Final[Mapping[str, Kind]] = {
    **_of(_AUTH, Kind.ACT, "CreateKey", "RevokeKey", "RotateKey", "DenyPrincipal", "AdmitPrincipal"),
    **_of(_AUTH, Kind.ACT, "RotateSigningKey"),
    **_of(_AUTH, Kind.NOTED, "IssueSessionToken", "IssueEnrolmentToken", "RevokeEnrolment"),
    **_of(_AUTH, Kind.PLAIN, "Authenticate", "ListVerificationKeys", "GetKey", "ListKeys", "ListDenials"),
    **_of(_AUTH, Kind.PLAIN, "WatchRevocations", "GetPolicy", "GetPrincipal"),
    **_of(_REGISTRY, Kind.ACT, *(f"{verb}{noun}" for verb in ("Create", "Update", "Delete") for noun in _CHANGED)),
    **_of(_REGISTRY, Kind.ACT, "DrainEndpoint", "Apply"),
    **_of(_REGISTRY, Kind.PLAIN, *(f"Get{noun}" for noun in _CHANGED), *(f"List{noun}s" for noun in _CHANGED), "Watch"),
    **_of(_LAUNCHER, Kind.ACT, "StopStart"),
    **_of(_LAUNCHER, Kind.PLAIN, "Want", "Watch", "ListStarts", "GetQueue"),
    **_of(_SESSION, Kind.NOTED, "Enrol", "RenewToken", "StopSession"),
    **_of(_SESSION, Kind.PLAIN, "Connect", "ListSessions"),
    **_of(_INFERENCE, Kind.CALLS, "Multiplex", "Infer", "ListModels", "GetModel"),
    **_of(_INFERENCE, Kind.CALLS, "Chat", "StreamChat", "Complete", "StreamComplete", "Embed", "Rerank", "Score"),
    **_of(_INFERENCE, Kind.CALLS, "Tokenize", "Detokenize"),
    **_of("usage.v1.UsageService", Kind.PLAIN, "RecordCalls", "SumUsage", "ListCalls"),
    "/envoy.service.auth.v3.Authorization/Check": Kind.PLAIN,
}


def kind_of(method: str) -> Kind:
    """What an RPC is, by its full name. What is not Weft's own changes nothing: health, reflection, Envoy's."""
    return KINDS.get(method, Kind.ACT if method.startswith("/weft.") else Kind.PLAIN)
