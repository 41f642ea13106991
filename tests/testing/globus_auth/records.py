"""What the stand-in knows: applications, people, sessions, tokens, groups, authentication policies."""

from __future__ import annotations

import secrets
import time
import uuid
from dataclasses import dataclass, field

GROUPS = "groups.api.globus.org"
VIEW_GROUPS = f"urn:globus:auth:scope:{GROUPS}:view_my_groups_and_memberships"
CLIENTS = "clients.auth.globus.org"
REFEDS_MFA = "https://refeds.org/profile/mfa"


@dataclass(slots=True, eq=False)
class App:
    """An application that is registered with Globus Auth: confidential with a secret, native without. It is a resource
    server too, with the one scope `scope`, which depends on seeing one's groups.
    """

    name: str
    secret: str = ""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    sees_groups: bool = True
    """Whether its scope depends on seeing one's groups."""
    memberships: dict[str, str] = field(default_factory=dict)
    """Its own identity's, as a person's."""

    @property
    def scope(self) -> str:
        """The scope that callers of this application ask for."""
        return f"https://auth.globus.org/scopes/{self.id}/action_all"

    @property
    def username(self) -> str:
        """Its own identity's, as a service account."""
        return f"{self.id}@{CLIENTS}"


@dataclass(slots=True, eq=False)
class Identity:
    """One identity of a person."""

    username: str
    name: str
    provider: str
    provider_name: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def domain(self) -> str:
        """What stands behind its `@`."""
        return self.username.partition("@")[2]


@dataclass(slots=True, eq=False)
class Person:
    """Someone, with linked identities of which the first is the primary one."""

    identities: list[Identity]
    memberships: dict[str, str] = field(default_factory=dict)
    """By group, the status: `active`, `invited`, `pending`, …"""


@dataclass(slots=True)
class Authentication:
    """One login within a session."""

    idp: str
    auth_time: int
    acr: str | None = None
    amr: list[str] | None = None


@dataclass(slots=True, eq=False)
class Session:
    """The logins within one session, by the identity's id."""

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    authentications: dict[str, Authentication] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Grant:
    """What an access token, or a refresh token, stands for. `owner` is a person, or an application itself."""

    owner: Person | App
    client: App
    scopes: tuple[str, ...]
    resource_server: str
    session: Session
    expires: float
    refresh: str | None = None


@dataclass(slots=True, eq=False)
class Code:
    """An authorization code (RFC 6749) that was given and not yet exchanged."""

    owner: Person
    client: App
    scopes: tuple[str, ...]
    session: Session
    challenge: str
    redirect_uri: str
    offline: bool


@dataclass(slots=True)
class Policy:
    """An authentication policy of Globus Auth, as far as it is evaluated for a session."""

    max_age: float | None = None
    mfa: bool = False
    domains: tuple[str, ...] = ()

    def holds(self, session: Session, identities: list[Identity]) -> bool:
        """Whether the session satisfies it."""
        domains = {identity.id: identity.domain for identity in identities}
        return any(
            (self.max_age is None or time.time() - login.auth_time < self.max_age)
            and (not self.mfa or login.acr == REFEDS_MFA or "mfa" in (login.amr or []))
            and (not self.domains or domains.get(identity) in self.domains)
            for identity, login in session.authentications.items()
        )


def new_token() -> str:
    """A token that looks like Globus's: opaque, and of their length."""
    return "Ag" + secrets.token_urlsafe(66).replace("-", "x").replace("_", "y")
