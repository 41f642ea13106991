"""The parts of auth's section of weft.yaml that say who people are. Durations are in seconds."""

from __future__ import annotations

import re
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec

from services.auth.claims import LEEWAY, MFA

_ISSUER_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with a private key (RFC 7518, 8037). `none` and HMAC are not among them, and cannot be allowed: whoever
knows the public key could sign with it.
"""

_Seconds = Annotated[float, msgspec.Meta(gt=0)]
_Count = Annotated[int, msgspec.Meta(ge=1)]


class GlobusConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`auth.globus`: our application at Globus Auth. Without `client_id`, no tokens of Globus are taken."""

    client_id: str = ""
    client_secret_file: str = ""
    """Relative to the home."""
    client_secret_env: str = ""
    scope: str = ""
    """That tokens must have; empty means `https://auth.globus.org/scopes/{client_id}/action_all`, as FIRST has it."""
    authentication_policies: tuple[str, ...] = ()
    """Beside those of `auth.policy`, those that clusters, endpoints and routes ask for: no others are evaluated."""
    ask_groups: bool = True
    kept_for_s: _Seconds = 600.0
    """As long, and no longer than the token lives, it is believed what Globus said of it."""
    refused_for_s: _Seconds = 60.0
    timeout_s: _Seconds = 5.0
    threads: _Count = 8
    waiting: _Count = 256
    """So many new callers may wait to be judged; the next are told to come again."""
    remembered: _Count = 10_000

    @property
    def own_scope(self) -> str:
        """The scope that tokens must have."""
        return self.scope or f"https://auth.globus.org/scopes/{self.client_id}/action_all"


class ClaimNames(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an issuer's tokens say what. A dot leads into an object: `realm_access.roles`."""

    username: str = "sub"
    """What it names must belong to one person for ever: `sub` does (OpenID Connect Core, 5.7), other claims do if the
    issuer says so.
    """
    display_name: str = "name"
    groups: str = "groups"
    authenticated_at: str = "auth_time"
    acr: str = "acr"
    amr: str = "amr"


class IssuerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of `auth.issuers`: an issuer of OpenID Connect, whose JWTs are taken."""

    name: str
    """How Weft calls it: its people are `users/{username}@{name}`, its groups `{group}@{name}`."""
    issuer: str
    """The URL, exactly as in the tokens' `iss`."""
    audiences: tuple[str, ...]
    """A token must be for one of them (`aud`)."""
    domains: tuple[str, ...] = ()
    """Domains that it vouches for: whoever has a username in one of them is `users/{username}`, as with Globus."""
    algorithms: tuple[str, ...] = ALGORITHMS
    clients: tuple[str, ...] = ()
    """If any, a token must have been given to one of them (`azp` or `client_id`)."""
    scope: str = ""
    """If any, a token must have it (`scope` or `scp`)."""
    service_accounts: tuple[str, ...] = ()
    """Patterns of usernames that are no people's: `service-account-*`. They are `services/{username}@{name}`."""
    claims: ClaimNames = ClaimNames()
    mfa: tuple[str, ...] = MFA
    """Values of `acr`, or among `amr`, that say that there was a second factor."""
    leeway_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = LEEWAY
    keys_kept_for_s: _Seconds = 3600.0
    keys_asked_every_s: _Seconds = 10.0
    """For a key that is not known, the issuer's keys are fetched anew, at most as often."""
    kept_for_s: _Seconds = 600.0
    refused_for_s: _Seconds = 60.0
    timeout_s: _Seconds = 5.0
    remembered: _Count = 10_000

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec tells with the place in weft.yaml, for an issuer that would not be safe."""
        if _ISSUER_NAME.fullmatch(self.name) is None:
            raise ValueError("'name' must be lower-case letters, digits and '-': without dots, it is nobody's domain")
        url = urlsplit(self.issuer)
        if not url.hostname or not (url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOOPBACK)):
            raise ValueError("'issuer' must be an https:// URL")
        if not self.audiences:
            raise ValueError("'audiences' must name at least one: else a token for any other service would do")
        if not self.algorithms or not set(self.algorithms).issubset(ALGORITHMS):
            raise ValueError(f"'algorithms' may hold {', '.join(ALGORITHMS)}")
        if any("*" in domain or "." not in domain for domain in self.domains):
            raise ValueError("'domains' must be whole domains, without '*'")


def check_apart(issuers: tuple[IssuerConfig, ...]) -> None:
    """Raises ValueError for two issuers that could be taken for each other."""
    _once("name", [issuer.name for issuer in issuers])
    _once("issuer", [issuer.issuer for issuer in issuers])
    _once("domains", [domain.lower() for issuer in issuers for domain in issuer.domains])


def _once(setting: str, values: list[str]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"'issuers' has the {setting} {value!r} twice; each belongs to one issuer")
