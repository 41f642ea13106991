"""Auth's section of weft.yaml. Durations are in seconds."""

from __future__ import annotations

import msgspec

from services.auth.certificates import CertificateRule


class BootstrapKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key that exists from the start. If `file`, relative to the home, is missing, a new key is made and written
    there.
    """

    file: str
    principal: str
    display_name: str = ""
    roles: tuple[str, ...] = ("user",)
    allow_models: tuple[str, ...] = ()
    deny_models: tuple[str, ...] = ()
    allow_endpoints: tuple[str, ...] = ()


DEFAULT_KEYS = (
    BootstrapKey("dev.key", "users/dev", "", ("user", "admin"), allow_models=("*",)),
    BootstrapKey("worker.key", "workers/default", "", ("worker",), allow_endpoints=("*",)),
    BootstrapKey("service.key", "services/weft", "", ("service",)),
)
"""What the parts of a mesh in one home show to each other, and the developer to all of them."""


class AuthConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`database` is a URL as of the registry; empty means `auth.db` in the home."""

    address: str = "127.0.0.1:7002"
    database: str = ""
    max_age_s: float = 30.0
    """How long routers may keep what they learn of a key: a revocation is effective within it."""
    session_token_life_s: float = 900.0
    bootstrap_keys: tuple[BootstrapKey, ...] = DEFAULT_KEYS
    certificates: tuple[CertificateRule, ...] = ()
    """Who may call by a client certificate, and what; the first rule that fits counts."""
