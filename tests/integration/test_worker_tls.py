"""Workers that reach their router from outside the mesh: by TLS, with a private authority, through a site's proxy."""

import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from services.core.principal import Principal
from services.rpc.boundary import Boundary
from services.rpc.remote import Way
from services.rpc.server import GrpcServer, check_health
from services.rpc.server_tls import TlsListener
from services.worker.launch import free_port
from tests.testing.calls import WHOLE, Call
from tests.testing.certificates import DAY, Authority
from tests.testing.mesh import Mesh, MeshOptions, StartMesh
from tests.testing.processes import SOON, HeldPort
from tests.testing.proxy import connect_proxy
from tests.testing.workers import enrolment, launch

NAME = "router.example"
"""A name that only the proxy knows."""


@pytest.fixture
async def mesh(start_mesh: StartMesh, tmp_path: Path) -> AsyncIterator[Mesh]:
    """A mesh without workers, whose router has a listener by TLS at `mesh.options.router["tls_address"]`."""
    held = HeldPort()
    certificate, key = Authority(tmp_path).issue(NAME, "127.0.0.1")
    yield await start_mesh(
        workers=0,
        router={
            "tls_address": f"127.0.0.1:{held.port}",
            "tls_certificate_file": str(certificate),
            "tls_key_file": str(key),
        },
    )
    held.close()


def port_of(mesh: Mesh) -> int:
    """The port of the router's listener by TLS."""
    return int(str(mesh.options.router["tls_address"]).rpartition(":")[2])


class _Nobody:
    """Health is open to all; nobody is asked who they are."""

    async def authenticate(self, credential: str | None) -> Principal:
        raise AssertionError("nobody is asked who they are")


@pytest.fixture
async def tls_server(tmp_path: Path) -> AsyncIterator[GrpcServer]:
    """A server by TLS beside a plain listener, which serves nothing but health; its authority is `authority.pem`."""
    listener = TlsListener("127.0.0.1:0", *Authority(tmp_path).issue("127.0.0.1"), "router")
    server = GrpcServer("127.0.0.1:0", Boundary({}, _Nobody()), (), (), tls=listener)
    await server.start()
    await server.set_ready(True)
    yield server
    await server.stop(0)


@pytest.mark.parametrize("told", ["by the environment", "by a flag"])
async def test_a_call_through_the_sites_proxy(mesh: Mesh, tmp_path: Path, told: str) -> None:
    token = await enrolment(mesh, "start-1")
    flags = ["--enrolment-token-file", str(token), "--router-ca", str(tmp_path / "authority.pem")]
    async with connect_proxy({NAME: "127.0.0.1"}) as proxy:
        if told == "by a flag":
            flags += ["--proxy", f"http://weaver:p%40ss@{proxy.address}"]
            environ = {"no_proxy": NAME}  # The flag says more.
        else:
            environ = {"https_proxy": f"http://{proxy.address}", "no_proxy": "localhost,other.example"}
        worker = launch(mesh, *flags, router=f"https://{NAME}:{port_of(mesh)}", environ=environ)
        await mesh.until_attached(1)
        assert await Call(mesh, stream=True, tokens=50).ending() == WHOLE
        assert proxy.seen[0].startswith(f"CONNECT {NAME}:{port_of(mesh)} HTTP/1.1\r\n")
        assert ("Proxy-Authorization: Basic d2VhdmVyOnBAc3M=" in proxy.seen[0]) is (told == "by a flag")
        proxy.cut()
        await mesh.until(mesh.sessions, lambda sessions: len(proxy.seen) > 1, "it dials again")
        await mesh.until_attached(1)
        assert await worker.terminate() == 0
        assert "p%40ss" not in worker.log


async def test_without_a_proxy_where_the_environment_makes_an_exception(mesh: Mesh, tmp_path: Path) -> None:
    token = await enrolment(mesh, "start-1")
    flags = ("--enrolment-token-file", str(token), "--router-ca", str(tmp_path / "authority.pem"))
    environ = {"https_proxy": f"http://127.0.0.1:{free_port()}", "no_proxy": "127.0.0.1"}
    launch(mesh, *flags, router=f"https://127.0.0.1:{port_of(mesh)}", environ=environ)
    await mesh.until_attached(1)
    assert await Call(mesh, stream=False).ending() == WHOLE


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("another authority", "is of an authority that is not trusted here; give that authority's file"),
        ("another name", "is for another name; give --router the name that it is for"),
        ("plain", "does not speak TLS"),
        ("proxy refuses", "The HTTP proxy does not let us reach the router"),
        ("proxy wants a password", "The HTTP proxy wants a name and a password"),
        ("unknown name", "is not known here"),
    ],
)
async def test_why_a_router_cannot_be_reached(
    start_mesh: StartMesh, tls_server: GrpcServer, tmp_path: Path, case: str, sentence: str
) -> None:
    mesh = await start_mesh(workers=0, services=())
    (mesh.home / "worker.key").write_text("a key that nobody is shown")
    authority = Authority(tmp_path, "another").file if case == "another authority" else tmp_path / "authority.pem"
    port = tls_server.tls_address.rpartition(":")[2]
    router = {
        "another name": f"https://other.example:{port}",
        "plain": f"https://{tls_server.address}",
        "unknown name": "https://no-such-host.invalid",
    }.get(case, f"https://{tls_server.tls_address}")
    refusal = "407 Proxy Authentication Required" if "password" in case else "403 Forbidden"
    async with connect_proxy({"other.example": "127.0.0.1"}, refusal) as proxy:
        flags = ["--key-file", str(mesh.home / "worker.key"), "--attach-timeout", "4", "--router-ca", str(authority)]
        flags += ["--proxy", f"http://{proxy.address}" if case.startswith(("proxy", "another name")) else "none"]
        worker = launch(mesh, *flags, router=router)
        assert await worker.ended() == 4
    assert worker.log.splitlines()[-1].startswith("weft worker: No router took this worker within 4 s. ")
    assert sentence in worker.log.splitlines()[-1]


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("expired", "'router.tls_certificate_file': {certificate} expired at"),
        ("absent", "'router.tls_key_file': {key} cannot be read: no such file or directory."),
        ("not named", "'router.tls_address' needs 'router.tls_key_file'."),
    ],
)
async def test_a_router_with_a_certificate_that_is_no_good_does_not_start(
    tmp_path: Path, case: str, sentence: str
) -> None:
    certificate, key = Authority(tmp_path).issue(NAME, lasts=-DAY if case == "expired" else DAY)
    if case == "absent":
        key.unlink()
    router = {"tls_address": f"127.0.0.1:{free_port()}", "tls_certificate_file": str(certificate)}
    if case != "not named":
        router["tls_key_file"] = str(key)
    mesh = Mesh(tmp_path / "home", MeshOptions(services=("router",), router=router))
    try:
        mesh.router.launch()
        assert await mesh.router.ended() != 0
        assert sentence.format(certificate=certificate, key=key) in mesh.router.log
        assert "Traceback" not in mesh.router.log
    finally:
        mesh.clear_away()


async def reached(address: str, authority: Path) -> bool:
    """Whether a server's certificate is good for whoever trusts that authority alone."""
    async with Way(authority, "none").dial(f"https://{address}") as channel:
        return await check_health(channel, "", timeout=SOON)


async def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    listener = TlsListener("127.0.0.1:0", *old.issue("127.0.0.1"), "router")
    server = GrpcServer("127.0.0.1:0", Boundary({}, _Nobody()), (), (), tls=listener)
    await server.start()
    await server.set_ready(True)
    assert (await reached(server.tls_address, old.file), await reached(server.tls_address, new.file)) == (True, False)
    new.issue("127.0.0.1")
    _touch(listener, 10)
    assert (await reached(server.tls_address, old.file), await reached(server.tls_address, new.file)) == (False, True)
    # Half written, or expired: what was good before is shown on.
    new.issue("127.0.0.1", lasts=timedelta(seconds=-1))
    _touch(listener, 20)
    assert await reached(server.tls_address, new.file)
    await server.stop(0)


def _touch(listener: TlsListener, later: float) -> None:
    """Files of a coarse clock would seem unchanged."""
    stamp = listener.certificate.stat().st_mtime + later
    for file in (listener.certificate, listener.key):
        os.utime(file, (stamp, stamp))
