"""Makes session tokens: by a worker's key, by an enrolment token, or by a session token that is still good."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from typing import Final

from services.auth import enrolment, tokens
from services.auth.denials import DenialStore
from services.auth.enrolments import EnrolmentStore
from services.auth.judge import Judge
from services.auth.keys import Key, standing
from services.auth.signing_keys import SigningKeyStore
from services.auth.store import KeyStore
from services.core.errors import Reason, ServiceError
from services.core.names import endpoint_name
from services.core.principal import may_serve
from services.rpc.session_token import SessionClaims, verify

_INSTANCE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Issuer:
    """Gives a worker the token that it dials with. `token_life` is in seconds."""

    def __init__(
        self,
        store: KeyStore,
        signing_keys: SigningKeyStore,
        enrolments: EnrolmentStore,
        denials: DenialStore,
        judge: Judge,
        *,
        token_life: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._signing_keys = signing_keys
        self._denials = denials
        self._enrolments = enrolments
        self._judge = judge
        self._token_life = token_life
        self._clock = clock

    async def issue(self, credential: str, endpoint: str, instance: str) -> tuple[str, int]:
        """A session token, and when it expires. Raises the `ServiceError` that the worker is to hear."""
        signing_keys = await self._signing_keys.all()
        if tokens.looks_like_token(credential):
            last = verify(credential, {key.id: key.private.public_key() for key in signing_keys})
            if endpoint not in ("", last.endpoint) or instance not in ("", last.instance):
                raise ServiceError(Reason.ACTION_FORBIDDEN, "A session token is renewed for its own endpoint alone.")
            claims = await self._renewed(last)
        else:
            # Who it is comes before what they ask for: a stranger is told nothing else.
            parts = enrolment.split(credential)
            key = await self._key_of(credential) if parts is None else None
            endpoint_name(endpoint, param="endpoint")
            if _INSTANCE.fullmatch(instance) is None:
                message = "'instance' must be 1 to 64 letters, digits, '.', '_' or '-'."
                raise ServiceError(Reason.ARGUMENT_INVALID, message, param="instance")
            if key is not None:
                claims = self._by_key(key, endpoint, instance)
            else:
                assert parts is not None
                claims = await self._enrolled(*parts, endpoint, instance)
        await self._denials.check(claims.principal)
        return tokens.issue(signing_keys[0], claims), int(claims.expires_at)

    async def _key_of(self, credential: str) -> Key:
        judged = await self._judge.look_up(credential)
        if judged.key is None:
            message = "A worker shows a key, an enrolment token or a session token; this is none of them."
            raise ServiceError(Reason.ACTION_FORBIDDEN, message)
        return judged.key

    async def _renewed(self, last: SessionClaims) -> SessionClaims:
        """By what it began with: else a worker whose key or start is revoked would renew for ever."""
        if not last.start:
            key = standing(await self._store.find(last.key), self._clock())
            return self._by_key(key, last.endpoint, last.instance)
        now = self._clock()
        if not await self._enrolments.renew(last.start, last.endpoint, last.instance, now):
            known = await self._enrolments.find(last.start)
            raise enrolment.refusal(known, endpoint=last.endpoint, instance=last.instance, now=now)
        return self._by_start(last.start, last.endpoint, last.instance, last.serves)

    async def _enrolled(self, identity: str, secret: str, endpoint: str, instance: str) -> SessionClaims:
        token = enrolment.check_secret(await self._enrolments.token(identity), secret)
        now = self._clock()
        admitted = await self._enrolments.admit(token.start, endpoint, instance, now)
        known = await self._enrolments.find(token.start)
        if not admitted or known is None:
            raise enrolment.refusal(known, endpoint=endpoint, instance=instance, now=now)
        return self._by_start(token.start, endpoint, instance, known.serves)

    def _by_key(self, worker: Key, endpoint: str, instance: str) -> SessionClaims:
        if not may_serve(worker.principal, endpoint):
            raise ServiceError(Reason.ACTION_FORBIDDEN, f"This key may not serve '{endpoint}'.", param="endpoint")
        # It does not outlive the key.
        expires_at = int(min(self._clock() + self._token_life, worker.expires_at or math.inf))
        return SessionClaims(endpoint, instance, worker.principal.name, expires_at, key=worker.id)

    def _by_start(self, start: str, endpoint: str, instance: str, serves: str) -> SessionClaims:
        expires_at = int(self._clock() + self._token_life)
        return SessionClaims(endpoint, instance, f"workers/{start}", expires_at, start=start, serves=serves)
