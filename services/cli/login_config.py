"""The section `login` of weft.yaml: how people, and services, log in at Globus Auth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from services.cli.failures import CommandError
from services.runtime.config import Config

NO_APPLICATION = "It is not known how to log in: set 'login.client_id' in weft.yaml to your site's native app."
NO_GATEWAY = "It is not known for whom to log in: set 'login.scope' in weft.yaml as your administrator says it."


class LoginConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`client_id` is the native application that is registered with Globus Auth; ids are public."""

    client_id: str = ""
    scope: str = ""
    """The gateway's; empty means that of `auth.globus`, as on the gateway's own machine."""
    url: str = ""
    """Where `weft whoami` asks; empty means the mesh of this home."""
    required_domain: str = ""
    """What `weft login --force` asks of the session: an identity of this domain, …"""
    required_policies: tuple[str, ...] = ()
    """… these authentication policies of Globus Auth, by UUID, …"""
    required_mfa: bool = False
    """… and a second factor."""

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec tells with the place in weft.yaml."""
        if self.url and not self.url.startswith(("https://", "http://127.0.0.1", "http://localhost", "http://[::1]")):
            raise ValueError(f"'url' must be an https:// URL, as credentials go there, not {self.url[:200]!r}")


@dataclass(frozen=True, slots=True)
class Service:
    """A service account: it logs in by itself. The secret is read at each use, and shown nowhere."""

    client_id: str
    secret_file: str


def scope_of(config: Config) -> str:
    """The scope that the gateway's tokens have. Raises `CommandError` if nothing says it."""
    if scope := config.section("login", LoginConfig).scope:
        return scope
    globus = config.sections["auth"].globus
    if not globus.client_id and not globus.scope:
        raise CommandError(NO_GATEWAY)
    return str(globus.own_scope)


def service_of(environ: Mapping[str, str]) -> Service | None:
    """The service account that the environment names; None for people. Raises `CommandError` for half of one."""
    client, file = environ.get("WEFT_CLIENT_ID", ""), environ.get("WEFT_CLIENT_SECRET_FILE", "")
    if bool(client) != bool(file):
        raise CommandError("Set both WEFT_CLIENT_ID and WEFT_CLIENT_SECRET_FILE for a service account, or neither.")
    return Service(client, file) if client else None
