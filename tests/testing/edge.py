"""`weft envoy run` in front of a test's mesh, and a facade that tells what reached it.

front = await start_front(mesh, limits={"burst": 1})
async with front.http() as client: await client.post("/v1/chat/completions", …)
"""

from __future__ import annotations

import os
import shutil
import ssl
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from aiohttp import web

from services.cli.certificate_authority import CA_KEY, Authority, Wanted
from services.cli.certs import DIRECTORY, ensure_envoy
from services.cli.parts import to_environ
from services.cli.settings import load
from services.runtime.child import ChildSpec
from services.runtime.home import log_file
from tests.testing.mesh import Mesh
from tests.testing.processes import HeldPort, Part

HOSTS = ("localhost", "127.0.0.1")
ALICE = "spiffe://weft/users/alice"
CHAT = "/v1/chat/completions"


class Front(Part):
    """An Envoy with the process that drains it. `envoy` are settings of its section, `other` those of others."""

    def __init__(self, mesh: Mesh, other: Mapping[str, Mapping[str, Any]], envoy: Mapping[str, Any]) -> None:
        self._ports = {name: HeldPort() for name in ("https", "grpc", "admin")}
        self.https, self.grpc, self.admin = (f"127.0.0.1:{port.port}" for port in self._ports.values())
        self.certs = mesh.home / DIRECTORY
        section = {
            "https_address": self.https,
            "grpc_address": self.grpc,
            "admin_address": self.admin,
            "threads": 1,
            "certificate_file": f"{DIRECTORY}/envoy.pem",
            "key_file": f"{DIRECTORY}/envoy-key.pem",
            **envoy,
        }
        self.environ = {
            **mesh.environ,
            **to_environ({**other, "envoy": section}),
            "WEFT_ENVOY": os.environ["WEFT_ENVOY"],
            "PATH": os.environ["PATH"],
        }
        ensure_envoy(load(self.environ), self.certs, HOSTS)
        command = (sys.executable, "-m", "services.cli", "envoy", "run")
        super().__init__(ChildSpec("envoy", command, log_file(mesh.home, "envoy"), self.environ))

    @property
    def access_log(self) -> Path:
        """Where it tells of each request."""
        return self.certs.parent / "log" / "envoy-access.log"

    @asynccontextmanager
    async def http(self, **settings: Any) -> AsyncIterator[aiohttp.ClientSession]:
        """A client of the HTTPS front, by HTTP/1.1."""
        context = ssl.create_default_context(cafile=self.certs / "ca.pem")
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        async with aiohttp.ClientSession(f"https://{self.https}", connector=connector, **settings) as client:
            yield client

    def dial(self, spiffe_id: str | None = ALICE, *options: tuple[str, int | str]) -> grpc.aio.Channel:
        """A channel to the gRPC front, with a certificate for that id; without one if there is none."""
        ca = (self.certs / "ca.pem").read_bytes()
        chain, key = (None, None) if spiffe_id is None else self.certificate(spiffe_id)
        return grpc.aio.secure_channel(self.grpc, grpc.ssl_channel_credentials(ca, key, chain), options=options)

    def certificate(self, spiffe_id: str) -> tuple[bytes, bytes]:
        """A certificate of the mesh's authority, and its key."""
        authority = Authority.open(self.certs, self.certs / CA_KEY)
        assert authority is not None
        file = authority.issue(Wanted(spiffe_id, timedelta(days=1)), "caller")
        return file.read_bytes(), file.with_name("caller-key.pem").read_bytes()

    def renew(self, serial_name: str = "envoy") -> Path:
        """A new certificate for Envoy, put in the place of the old one."""
        authority = Authority.open(self.certs, self.certs / CA_KEY)
        assert authority is not None
        return authority.issue(Wanted("spiffe://weft/envoy", timedelta(days=1), HOSTS), serial_name)

    async def stat(self, name: str) -> int:
        """One of Envoy's own counters or gauges."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{self.admin}/stats", params={"filter": f"^{name}$", "format": "json"}) as answer,
        ):
            stats = (await answer.json(content_type=None))["stats"]
        return sum(int(stat["value"]) for stat in stats if "value" in stat)

    def clear_away(self) -> None:
        """Ends it, and gives the ports back."""
        super().clear_away()
        for port in self._ports.values():
            port.close()


class Echo:
    """A facade that tells, in JSON, what reached it. `answers` are functions that answer paths in another way."""

    def __init__(self) -> None:
        self.seen: list[web.Request] = []
        self.address = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Echo]:
        """Serves while the block runs."""
        server = web.Server(self._answer)
        runner = web.ServerRunner(server)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        self.address = "{}:{}".format(*site._server.sockets[0].getsockname())  # type: ignore[attr-defined]
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/health":
            return web.Response()
        if request.path == "/v1/break" and request.transport is not None:
            request.transport.abort()
            return web.Response()
        headers = [[name.lower(), value] for name, value in request.headers.items()]
        return web.json_response({"path": request.raw_path, "headers": headers, "method": request.method})


def second_home(mesh: Mesh, folder: Path) -> Path:
    """A home for another service of the same mesh, with its certificates and its key."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("service.key",):
        shutil.copy(mesh.home / name, folder / name)
    if (mesh.home / DIRECTORY).exists():
        (folder / DIRECTORY).symlink_to(mesh.home / DIRECTORY)
    return folder


async def start_front(
    fronts: list[Part], mesh: Mesh, *, other: Mapping[str, Mapping[str, Any]] | None = None, **envoy: Any
) -> Front:
    """Starts one, which the caller clears away."""
    front = Front(mesh, other or {}, envoy)
    fronts.append(front)
    await front.start()
    return front


def events(text: str) -> Sequence[str]:
    """The data of server-sent events."""
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
