"""Session tokens that are good no longer, although they are signed and have not expired."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from services.core.errors import Reason, ServiceError
from services.core.principal import denied_as
from services.rpc.revocations import Revocation, RevocationKind
from services.rpc.session_token import SessionClaims

_CAPACITY: Final = 100_000
"""Far more than are revoked within the life of a token, which is all that counts: some ten megabytes at most."""

_TOKENS: Final = frozenset({RevocationKind.KEY, RevocationKind.PRINCIPAL, RevocationKind.START})


class RevokedTokens:
    """What was revoked of late by which session tokens were given. Auth gives no new ones for it."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._revoked: OrderedDict[Revocation, None] = OrderedDict()

    def note(self, revocation: Revocation) -> None:
        """Takes up what auth tells."""
        if revocation.kind in _TOKENS:
            self._revoked[revocation] = None
            self._revoked.move_to_end(revocation)
            if len(self._revoked) > self._capacity:
                self._revoked.popitem(last=False)
        elif revocation.kind is RevocationKind.CHANGED:
            self._revoked.pop(Revocation(RevocationKind.PRINCIPAL, revocation.name), None)
        else:  # auth tells anew what it has revoked of late
            self._revoked.clear()

    def refusal(self, claims: SessionClaims) -> ServiceError | None:
        """Why a token with these claims is refused, None if it is good."""
        for revocation in grounds(claims):
            if revocation in self._revoked:
                return _refusal(revocation)
        return None


def grounds(claims: SessionClaims) -> Iterator[Revocation]:
    """What would revoke a token with these claims."""
    yield Revocation(RevocationKind.PRINCIPAL, denied_as(claims.principal))
    if claims.key:
        yield Revocation(RevocationKind.KEY, f"keys/{claims.key}")
    if claims.start:
        yield Revocation(RevocationKind.START, claims.start)


def _refusal(revocation: Revocation) -> ServiceError:
    match revocation.kind:
        case RevocationKind.PRINCIPAL:
            message = f"'{revocation.name}' is denied here by an administrator; ask yours."
            return ServiceError(Reason.IDENTITY_FORBIDDEN, message, principal=revocation.name)
        case RevocationKind.START:
            message = f"The start '{revocation.name}' was revoked; its worker must end."
            return ServiceError(Reason.ACTION_FORBIDDEN, message)
        case _:
            message = "The worker's key was revoked; give it another, made by 'weft keys create'."
            return ServiceError(Reason.CREDENTIAL_INVALID, message)
