"""Auth's RPC edge: who may call what, and the servicer that answers, which stands in several files."""

from __future__ import annotations

from typing import Final

from weft.auth.v1 import auth_pb2_grpc

from services.auth.denial_rpcs import DenialRpcs
from services.auth.identity_rpcs import IdentityRpcs
from services.auth.key_rpcs import KeyRpcs
from services.auth.worker_rpcs import WorkerRpcs
from services.core.principal import Role
from services.rpc.boundary import Access

SERVICE: Final = "weft.auth.v1.AuthService"

_SERVICE: Final = frozenset({Role.SERVICE})
_ADMIN: Final = frozenset({Role.ADMIN})
ACCESS: Access = {
    f"/{SERVICE}/Authenticate": _SERVICE,
    f"/{SERVICE}/IssueSessionToken": _SERVICE,
    f"/{SERVICE}/IssueEnrolmentToken": _SERVICE,
    f"/{SERVICE}/RevokeEnrolment": _SERVICE,
    f"/{SERVICE}/ListVerificationKeys": _SERVICE,
    f"/{SERVICE}/WatchRevocations": _SERVICE,
    f"/{SERVICE}/GetPolicy": _SERVICE | _ADMIN,
    f"/{SERVICE}/GetPrincipal": _ADMIN,
    f"/{SERVICE}/CreateKey": _ADMIN,
    f"/{SERVICE}/GetKey": _ADMIN,
    f"/{SERVICE}/ListKeys": _ADMIN,
    f"/{SERVICE}/RevokeKey": _ADMIN,
    f"/{SERVICE}/RotateKey": _ADMIN,
    f"/{SERVICE}/RotateSigningKey": _ADMIN,
    f"/{SERVICE}/DenyPrincipal": _ADMIN,
    f"/{SERVICE}/AdmitPrincipal": _ADMIN,
    f"/{SERVICE}/ListDenials": _ADMIN,
}


class AuthServicer(IdentityRpcs, WorkerRpcs, KeyRpcs, DenialRpcs, auth_pb2_grpc.AuthServiceServicer):
    """Judges credentials, issues tokens, keeps keys and denials."""
