"""The principal of a caller that shows a client certificate."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from services.core.errors import Reason, ServiceError
from services.core.principal import CredentialKind, Identity, Principal, Role
from services.rpc.peer import Trust, own_id, part_id, peer_id

_ROLES: Final[Mapping[str, frozenset[Role]]] = {
    "router": frozenset({Role.SERVICE}),
    "registry": frozenset({Role.SERVICE}),
    "auth": frozenset({Role.SERVICE}),
    "launcher": frozenset({Role.SERVICE}),
    "admin": frozenset({Role.ADMIN}),
    # A facade only carries calls, each with a credential of its own, and a worker shows a token in its session: neither
    # may do anything by its certificate alone, so that none is lent to whoever takes a facade or a node over.
    "facade": frozenset(),
    "worker": frozenset(),
}


class PeerPrincipals:
    """Tells who a caller is by its certificate. Parts of the mesh are known here; of all others `authenticate_peer` is
    asked, which raises IDENTITY_FORBIDDEN or AUTH_UNAVAILABLE.
    """

    def __init__(self, trust: Trust, authenticate_peer: Callable[[str], Awaitable[Principal]]) -> None:
        self._trust = trust
        self._authenticate_peer = authenticate_peer

    def part_of(self, context: Any) -> str:
        """The part of the mesh that holds the other end of the connection; empty if it is none."""
        spiffe_id = own_id(context, self._trust.domain)
        return "" if spiffe_id is None else self._trust.part(spiffe_id) or ""

    async def principal_of(self, context: Any) -> Principal | None:
        """Who calls an RPC; None if no certificate tells. Raises IDENTITY_FORBIDDEN or AUTH_UNAVAILABLE."""
        trust = self._trust
        spiffe_id = peer_id(context, trust.proxies, trust_domain=trust.domain)
        if spiffe_id is None:
            return None
        part = trust.part(spiffe_id)
        if part is None:
            return await self._authenticate_peer(spiffe_id)
        # A proxy speaks for callers. It never makes its client a part of the mesh.
        if not part or own_id(context, trust.domain) != spiffe_id:
            message = f"The certificate's SPIFFE id {spiffe_id} names no part of the mesh; use an id of your own."
            raise ServiceError(Reason.IDENTITY_FORBIDDEN, message)
        return part_principal(trust.domain, part)


def part_principal(trust_domain: str, part: str) -> Principal:
    """A part of the mesh, as the others know it."""
    name = f"{'workers' if part == 'worker' else 'services'}/{part}"
    identity = Identity(CredentialKind.CERTIFICATE, part_id(trust_domain, part), service_account=True)
    return Principal(name, _ROLES[part], identity=identity)
