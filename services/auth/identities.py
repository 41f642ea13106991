"""Whose a token of somebody else's is: of Globus Auth, or of another issuer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from services.auth.identity_config import GlobusConfig, IssuerConfig
from services.auth.judged import Judged
from services.auth.oidc import OidcIssuer, issuer_of
from services.auth.recall import Memory, Recall
from services.core.access import MeshPolicy
from services.core.errors import Reason, ServiceError

if TYPE_CHECKING:
    from services.auth.globus import GlobusAuth


class Identities:
    """Tells by a token's shape whom to ask, asks, and remembers. `max_age`, in seconds, is how long others may keep
    what they are told.
    """

    def __init__(
        self,
        globus: GlobusAuth | None = None,
        globus_memory: Memory | None = None,
        issuers: tuple[IssuerConfig, ...] = (),
        *,
        max_age: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._globus = globus
        self._globus_recall = Recall(globus.ask, globus_memory or Memory(), clock=clock) if globus is not None else None
        self._issuers: Mapping[str, Recall] = {
            issuer.issuer: Recall(OidcIssuer(issuer, clock=clock).ask, _memory(issuer), clock=clock)
            for issuer in issuers
        }
        self._max_age = max_age
        self._clock = clock

    async def look_up(self, credential: str) -> Judged:
        """Whose it is, before the mesh's policy is asked. Raises CREDENTIAL_INVALID, CREDENTIAL_EXPIRED,
        SESSION_INSUFFICIENT, IDENTITY_FORBIDDEN or AUTH_UNAVAILABLE.
        """
        recall = self._whom(credential)
        if recall is None:
            raise ServiceError(Reason.CREDENTIAL_INVALID)
        principal, until = await recall.look_up(credential)
        # As an expiry, also where the token lives on: it is to end with what we know of it, while Globus is away too.
        return Judged(principal, until, max(0.0, min(self._max_age, until - self._clock())))

    @property
    def hits(self) -> int:
        """How often one was remembered."""
        return sum(recall.hits for recall in self._recalls)

    @property
    def misses(self) -> int:
        """How often its issuer was asked."""
        return sum(recall.misses for recall in self._recalls)

    async def close(self) -> None:
        """Ends the questions that are under way."""
        for recall in self._recalls:
            await recall.close()
        if self._globus is not None:
            self._globus.close()

    @property
    def _recalls(self) -> list[Recall]:
        return [*self._issuers.values(), *([self._globus_recall] if self._globus_recall is not None else ())]

    def _whom(self, credential: str) -> Recall | None:
        """A JWT goes to nobody but the issuer that it names: shown to Globus, somebody else's token, or a worker's
        session token, would be given away.
        """
        issuer = issuer_of(credential)
        return self._globus_recall if issuer is None else self._issuers.get(issuer)


def open_identities(
    globus: GlobusConfig,
    issuers: tuple[IssuerConfig, ...],
    mesh: MeshPolicy,
    *,
    home: Path,
    max_age: float,
    environ: Mapping[str, str] = os.environ,
) -> Identities:
    """By the configuration, which has been checked. Raises ARGUMENT_INVALID if the secret cannot be read, or if the
    globus-sdk is not installed.
    """
    if not globus.client_id:
        return Identities(issuers=issuers, max_age=max_age)
    try:
        from services.auth.globus import GlobusAuth
    except ModuleNotFoundError as error:
        message = "'auth.globus' needs the globus-sdk: pip install 'weft[globus]'."
        raise ServiceError(Reason.ARGUMENT_INVALID, message, param="auth.globus") from error
    asked = GlobusAuth(globus, _secret(globus, home, environ), mesh)
    memory = Memory(globus.kept_for_s, globus.refused_for_s, globus.remembered, globus.remembered, globus.waiting)
    return Identities(asked, memory, issuers, max_age=max_age)


def _secret(globus: GlobusConfig, home: Path, environ: Mapping[str, str]) -> str:
    if bool(globus.client_secret_file) == bool(globus.client_secret_env):
        rule = "needs one of 'client_secret_file' and 'client_secret_env'"
        raise ServiceError(Reason.ARGUMENT_INVALID, f"'auth.globus' {rule}.", param="auth.globus")
    if globus.client_secret_env:
        where, secret = globus.client_secret_env, environ.get(globus.client_secret_env, "").strip()
    else:
        file = home / Path(globus.client_secret_file).expanduser()
        try:
            where, secret = str(file), file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            message = f"The secret of 'auth.globus' cannot be read from {file}; put it there, readable for auth alone."
            raise ServiceError(Reason.ARGUMENT_INVALID, message, param="auth.globus.client_secret_file") from error
    if not secret:
        message = f"There is no secret for 'auth.globus': {where} is empty."
        raise ServiceError(Reason.ARGUMENT_INVALID, message, param="auth.globus")
    return secret


def _memory(issuer: IssuerConfig) -> Memory:
    return Memory(issuer.kept_for_s, issuer.refused_for_s, issuer.remembered, issuer.remembered)
