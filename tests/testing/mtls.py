"""Parts of a mesh that know each other by certificates, and a small server that tells who calls it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc

from services.core.errors import Reason, ServiceError
from services.core.principal import Principal, Role
from services.rpc.boundary import Access, Boundary, Open, caller
from services.rpc.certificate import Certificate, CertificateFiles
from services.rpc.peer import Trust, part_host, part_id
from services.rpc.server import GrpcServer
from services.rpc.wire import Secure, Wire
from tests.testing.certificates import DAY, Authority

DOMAIN = "weft"
ENVOY = f"spiffe://{DOMAIN}/envoy"
SERVICE = "test.Service"
TIMEOUT = 20.0


class Pki:
    """The certificates of a mesh, of one authority after the other; `bundle` is what its parts trust."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._renewals = 0
        self.authority = Authority(folder)
        self.bundle = folder / "bundle.pem"
        self.trust(self.authority)

    def trust(self, *authorities: Authority) -> None:
        """Has all parts trust these."""
        self._put(self.bundle, b"".join(authority.file.read_bytes() for authority in authorities))

    def files(
        self, *names: str, file: str, lasts: timedelta = DAY, authority: Authority | None = None
    ) -> CertificateFiles:
        """A certificate for names and URIs, made or renewed; the clock of its files always goes on."""
        certificate, key = (authority or self.authority).issue(*names, lasts=lasts, file=file)
        self._renewals += 1
        for made in (certificate, key):
            self._stamp(made)
        return CertificateFiles(certificate, key, self.bundle)

    def part(self, part: str, authority: Authority | None = None) -> CertificateFiles:
        """A part's own."""
        names = (part_id(DOMAIN, part), part_host(DOMAIN, part), "localhost", "127.0.0.1")
        return self.files(*names, file=part, authority=authority)

    def wire(self, part: str) -> Wire:
        """A part that speaks mutual TLS."""
        return wire(self.part(part))

    def _put(self, file: Path, content: bytes) -> None:
        fresh = file.with_suffix(".new")
        fresh.write_bytes(content)
        self._renewals += 1
        self._stamp(fresh)
        fresh.replace(file)

    def _stamp(self, file: Path) -> None:
        moment = time.time() + self._renewals
        os.utime(file, (moment, moment))


def wire(files: CertificateFiles) -> Wire:
    """Whoever has these files."""
    return Wire(Secure(Certificate(files), Trust(DOMAIN, frozenset({ENVOY}))))


class Keys:
    """Knows keys, each the name of a role."""

    async def authenticate(self, credential: str | None) -> Principal:
        if credential is None:
            raise ServiceError(Reason.CREDENTIAL_MISSING)
        return Principal(f"users/{credential}", frozenset({Role[credential.upper()]}))


async def users_alone(spiffe_id: str) -> Principal:
    """Auth's part: admits those below /users."""
    prefix = f"spiffe://{DOMAIN}/"
    if not spiffe_id.startswith(f"{prefix}users/"):
        raise ServiceError(Reason.IDENTITY_FORBIDDEN, f"no rule for {spiffe_id}")
    return Principal(spiffe_id.removeprefix(prefix), frozenset({Role.USER}))


async def _who(request: bytes, context: Any) -> bytes:
    return caller().name.encode()


class Counting:
    """A stream that sends a number each time it is let go on."""

    def __init__(self) -> None:
        self.go_on = asyncio.Semaphore(0)

    async def serve(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """The numbers, from 0 to 2."""
        for number in range(3):
            await self.go_on.acquire()
            yield str(number).encode()


_ROLES: Access = {
    "Who": frozenset({Role.USER, Role.ADMIN, Role.SERVICE}),
    "Parts": frozenset({Role.SERVICE}),
    "Administer": frozenset({Role.ADMIN}),
    "Count": Open.TO_ALL,
}


@asynccontextmanager
async def serving(
    wire: Wire,
    authenticate_peer: Callable[[str], Awaitable[Principal]] = users_alone,
    counting: Counting | None = None,
) -> AsyncIterator[str]:
    """A server on that wire, for the body of the `async with`; gives its address."""
    count = (counting or Counting()).serve
    asking = ("Who", "Parts", "Administer")
    methods: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(_who) for name in asking}
    handlers: Any = grpc.method_handlers_generic_handler(
        SERVICE, {**methods, "Count": grpc.unary_stream_rpc_method_handler(count)}
    )
    access: Access = {f"/{SERVICE}/{name}": roles for name, roles in _ROLES.items()}
    server = GrpcServer(
        "127.0.0.1:0",
        Boundary(access, Keys(), wire.peers(authenticate_peer)),
        [SERVICE],
        [lambda server: server.add_generic_rpc_handlers((handlers,))],
        credentials=wire.credentials,
    )
    await server.start()
    try:
        await server.set_ready(True)
        yield server.address
    finally:
        await server.stop(0)


async def ask(channel: grpc.aio.Channel, method: str = "Who", *metadata: tuple[str, str]) -> str:
    """Who the server says that we are."""
    start: Any = channel.unary_unary(f"/{SERVICE}/{method}")
    answer: bytes = await start(b"", metadata=metadata, timeout=TIMEOUT)
    return answer.decode()
