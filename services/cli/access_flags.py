"""The flags about who may use a cluster, an endpoint or a route, and how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Final

import typer
from weft.registry.v1 import resources_pb2

from services.cli.flags import seconds, time_option, with_flags

_LISTS: Final = {
    "allow_group": "allowed_globus_groups",
    "allow_domain": "allowed_domains",
    "allow_provider": "allowed_identity_providers",
    "allow_principal": "allowed_principals",
    "require_policy": "authentication_policies",
}
_UUIDS: Final = ("allow_group", "allow_provider", "require_policy")
"""Flags whose UUIDs are written in small letters; what else is among them is left as it is."""
_LIMITS: Final = (
    "requests_per_second",
    "requests_per_second_per_user",
    "concurrent_calls",
    "concurrent_calls_per_user",
    "tokens_per_minute",
    "tokens_per_minute_per_user",
    "tokens_per_day",
    "tokens_per_day_per_user",
)


def _list(metavar: str, help: str) -> Any:
    return typer.Option(metavar=metavar, help=f"{help} Several times for several; '' for none.")


def _limit(help: str) -> Any:
    return typer.Option(min=0, metavar="N", help=f"{help}; 0: no limit.")


@dataclass(frozen=True, slots=True)
class AccessFlags:
    """What the flags say; None where one is not given."""

    allow_group: Annotated[list[str] | None, _list("GROUP", "Only members of a Globus group (UUID) or another.")] = None
    allow_domain: Annotated[list[str] | None, _list("DOMAIN", "Only identities of a domain, or *.DOMAIN.")] = None
    allow_provider: Annotated[list[str] | None, _list("ID", "Only identities of a provider: a UUID or an URL.")] = None
    allow_principal: Annotated[
        list[str] | None, _list("PATTERN", "Whoever is named needs no group, domain and provider; alone: nobody else.")
    ] = None
    require_policy: Annotated[
        list[str] | None, _list("UUID", "The session must satisfy an authentication policy of Globus Auth.")
    ] = None
    max_session_age: Annotated[str | None, time_option("How long ago the login may be:")] = None
    require_mfa: Annotated[
        bool | None, typer.Option("--require-mfa/--no-require-mfa", help="Ask for a login with a second factor.")
    ] = None
    requests_per_second: Annotated[float | None, _limit("Calls a second, of all callers together")] = None
    requests_per_second_per_user: Annotated[float | None, _limit("Calls a second of each caller")] = None
    concurrent_calls: Annotated[int | None, _limit("Open calls of all callers together")] = None
    concurrent_calls_per_user: Annotated[int | None, _limit("Open calls of each caller")] = None
    tokens_per_minute: Annotated[int | None, _limit("Tokens a minute of all callers together")] = None
    tokens_per_minute_per_user: Annotated[int | None, _limit("Tokens a minute of each caller")] = None
    tokens_per_day: Annotated[int | None, _limit("Tokens in 24 hours of all callers together")] = None
    tokens_per_day_per_user: Annotated[int | None, _limit("Tokens in 24 hours of each caller")] = None

    @property
    def given(self) -> bool:
        """Whether any is."""
        return any(getattr(self, field.name) is not None for field in fields(self))

    def put(
        self,
        wanted: resources_pb2.Cluster | resources_pb2.Endpoint | resources_pb2.Route,
        present: resources_pb2.Cluster | resources_pb2.Endpoint | resources_pb2.Route,
    ) -> list[str]:
        """Gives `wanted` the policy and limits that `present` has, changed by what is given, if anything is; says which
        fields that are. Raises `typer.BadParameter` for what cannot be read.
        """
        if not self.given:
            return []
        wanted.access.CopyFrom(present.access)
        wanted.limits.CopyFrom(present.limits)
        wanted.etag = present.etag
        self._put_access(wanted.access)
        for name in _LIMITS:
            if (value := getattr(self, name)) is not None:
                setattr(wanted.limits, name, value)
        for field, part in (("access", wanted.access), ("limits", wanted.limits)):
            if not part.ListFields():
                wanted.ClearField(field)  # type: ignore[arg-type]
        return ["access", "limits"]

    def _put_access(self, access: resources_pb2.AccessPolicy) -> None:
        for name, field in _LISTS.items():
            values: list[str] | None = getattr(self, name)
            if values is not None:
                texts = (value.strip() for value in values)
                getattr(access, field)[:] = [_small(text) if name in _UUIDS else text for text in texts if text]
        if self.max_session_age is not None:
            access.ClearField("max_session_age")
            age = seconds(self.max_session_age, "--max-session-age")
            if age is not None:
                access.max_session_age.FromMilliseconds(round(age * 1000))
        if self.require_mfa is not None:
            access.require_mfa = self.require_mfa


def with_access_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command that takes `who` an option for each field of `AccessFlags`."""
    return with_flags("who", AccessFlags)(command)


def _small(text: str) -> str:
    """A UUID in small letters, as Globus writes it and as the registry asks."""
    is_uuid = len(text) == 36 and text.count("-") == 4 and text.replace("-", "").isalnum()
    return text.lower() if is_uuid else text
