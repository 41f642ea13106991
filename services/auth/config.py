"""Auth's section of weft.yaml. Durations are in seconds."""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.auth.certificates import CertificateRule
from services.auth.identity_config import GlobusConfig, IssuerConfig, check_apart
from services.auth.policy_config import PolicyConfig, QuotaConfig, check_said
from services.auth.usage.running import UsageConfig


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
    allow_operations: tuple[str, ...] = ()
    """Empty means all."""
    groups: tuple[str, ...] = ()


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
    """How long routers may keep what they learn of a key. A revocation is effective at once where auth is reached, and
    within this where it is not.
    """
    session_token_life_s: Annotated[float, msgspec.Meta(gt=0, le=86400)] = 900.0
    """A day at most: for so long routers are told what was revoked."""
    signing_key_life_s: Annotated[float, msgspec.Meta(gt=0)] = 30 * 86400.0
    """How long a key signs session tokens before a fresh one does."""
    bootstrap_keys: tuple[BootstrapKey, ...] = DEFAULT_KEYS
    certificates: tuple[CertificateRule, ...] = ()
    """Who may call by a client certificate, and what; the first rule that fits counts."""
    policy: PolicyConfig = PolicyConfig()
    usage: UsageConfig = UsageConfig()
    """Where records of calls are kept, and for how many days."""
    principals_retention_days: Annotated[float, msgspec.Meta(gt=0)] = 400.0
    """For how long it is kept what is known of principals that call no more."""
    quotas: tuple[QuotaConfig, ...] = ()
    """What each principal, and each group, may use; of several that fit a principal, the first counts."""
    globus: GlobusConfig = GlobusConfig()
    issuers: tuple[IssuerConfig, ...] = ()
    """Issuers of OpenID Connect whose tokens are taken."""

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec tells with the section."""
        check_apart(self.issuers)
        if self.globus.client_id or self.issuers:
            check_said(self.policy)
