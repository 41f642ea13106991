"""How the router is reached, and with what credential."""

import asyncio
from pathlib import Path

import grpc
import pytest
from weft.client import (
    ApiKey,
    AsyncClient,
    Client,
    GlobusLogin,
    InvalidRequest,
    MutualTls,
    NotAllowed,
    Tls,
    Unavailable,
)
from weft.client.channel import MAX_MESSAGE_BYTES, Target, is_loopback

from services.rpc import channel
from tests.testing.certificates import Authority
from tests.unit.client.server import Server

KEY = "weft-secret-key"
MIB = 1024 * 1024


def key_seen(server: Server) -> str | None:
    return server.servicer.seen[-1][1].get("authorization")


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:7000", True),
        ("127.8.9.1:7000", True),
        ("localhost:7000", True),
        ("[::1]:7000", True),
        ("unix:/run/weft.sock", True),
        ("10.0.0.1:7000", False),
        ("router.example.org:7000", False),
        ("localhost.example.org:7000", False),
        ("ipv4:127.0.0.1:7000,10.0.0.1:7000", False),
        ("127.0.0.1", False),
    ],
)
def test_loopback(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


def test_a_key_goes_elsewhere_by_tls_alone_unless_it_is_said() -> None:
    assert Target.of("127.0.0.1:7000", None, insecure=False).credentials is None
    assert Target.of("router.example.org:7000", None, insecure=False).credentials is not None
    assert Target.of("router.example.org:7000", None, insecure=True).credentials is None
    assert ("grpc.enable_http_proxy", 0) in Target.of("127.0.0.1:7000", None, insecure=False).options


@pytest.mark.parametrize("address", ["https://router.example.org", "http://127.0.0.1:7000"])
def test_urls_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        Client(address)


def test_insecure_with_tls_is_refused() -> None:
    with pytest.raises(ValueError, match="insecure"):
        Client("127.0.0.1:7000", tls=Tls(), insecure=True)


async def test_a_plain_server_elsewhere_gets_nothing(server: Server) -> None:
    """As TLS is what is spoken to it."""
    async with AsyncClient(server.address, credential=KEY, tls=Tls(), retry=None) as client:
        with pytest.raises(Unavailable):
            await client.chat("m", "Hi")
    assert server.servicer.seen == []


async def test_tls(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    certificate, key = authority.issue("router.test")
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    async with Server(credentials) as server:
        async with AsyncClient(server.address, credential=KEY, tls=Tls(authority.file, "router.test")) as client:
            await client.chat("m", "Hi")
        assert key_seen(server) == f"Bearer {KEY}"
        for wrong in (Tls(other.file, "router.test"), Tls(authority.file), Tls(authority.file, "elsewhere.test")):
            async with AsyncClient(server.address, credential=KEY, tls=wrong, retry=None) as client:
                with pytest.raises(Unavailable) as failed:
                    await client.chat("m", "Hi")
            assert failed.value.reason == "ROUTER_UNAVAILABLE"
            assert KEY not in str(failed.value)
        assert len(server.servicer.seen) == 1


async def test_mutual_tls(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    certificate, key = authority.issue("router.test")
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())], authority.file.read_bytes(), require_client_auth=True
    )
    mine = authority.issue("spiffe://weft/users/ada", file="ada")
    theirs = other.issue("spiffe://weft/users/eve", file="eve")
    async with Server(credentials) as server:

        def ask(tls: Tls) -> None:
            with Client(server.address, tls=tls, retry=None) as client:
                client.chat("m", "Hi")

        def shown(certificate: Path, key: Path) -> MutualTls:
            return MutualTls(authority.file, "router.test", certificate_file=certificate, key_file=key)

        await asyncio.to_thread(ask, shown(*mine))
        assert key_seen(server) is None
        for wrong in (Tls(authority.file, "router.test"), shown(*theirs)):
            with pytest.raises(Unavailable):
                await asyncio.to_thread(ask, wrong)


def test_files_that_are_not_there_are_said_at_once(tmp_path: Path) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(FileNotFoundError):
            kind("router.example.org:7000", tls=Tls(tmp_path / "none.pem"))
    with pytest.raises(NotAllowed, match="holds no key"):
        ApiKey.from_file(tmp_path / "none.key")


async def test_a_key_in_a_file_is_read_for_every_call(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "weft.key"
    file.write_text(f"{KEY}\n")
    async with AsyncClient(server.address, credential=ApiKey.from_file(file)) as client:
        await client.chat("m", "Hi")
        assert key_seen(server) == f"Bearer {KEY}"
        file.write_text("another")
        await client.chat("m", "Hi")
        assert key_seen(server) == "Bearer another"
        file.unlink()
        with pytest.raises(NotAllowed):
            await client.chat("m", "Hi")


async def test_the_key_of_the_surroundings(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WEFT_KEY; else that of `weft up`, which is for no other machine."""
    monkeypatch.setenv("WEFT_ROUTER", server.address)
    monkeypatch.setenv("WEFT_HOME", str(tmp_path))
    (tmp_path / "dev.key").write_text("made-by-up")
    for key in ("made-by-up", KEY):
        if key == KEY:
            monkeypatch.setenv("WEFT_KEY", KEY)
        async with AsyncClient() as client:
            await client.chat("m", "Hi")
        assert key_seen(server) == f"Bearer {key}"
    monkeypatch.delenv("WEFT_KEY")
    assert AsyncClient("router.example.org:7443")._settings.credential is None


@pytest.mark.parametrize("key", ["", "  \n", "two\nlines", "grün"])
def test_keys_that_are_none_are_refused_without_showing_them(key: str) -> None:
    with pytest.raises(NotAllowed) as refused:
        ApiKey(key)
    assert not key.strip() or key not in str(refused.value)
    assert KEY not in repr(ApiKey(KEY))


async def test_metadata_that_grpc_would_refuse_does_not_show_the_key(server: Server) -> None:
    async with AsyncClient(server.address, credential=KEY) as client:
        for name, value in (("bad name", "x"), ("x-note", "two\nlines"), ("x-bin", "x"), ("authorization", "x")):
            with pytest.raises(ValueError, match=r"metadata|credential") as refused:
                await client.chat("m", "Hi", metadata=[(name, value)])
            assert KEY not in str(refused.value)


async def test_a_globus_token_is_fetched_again_in_time(server: Server) -> None:
    now = 0.0
    fetched = iter(["Bearer one", "two"])
    login = GlobusLogin(lambda: next(fetched), kept=60, clock=lambda: now)
    async with AsyncClient(server.address, credential=login) as client:
        for now, token in ((0.0, "one"), (59.0, "one"), (60.0, "two")):  # noqa: B007 - the clock reads it
            await client.chat("m", "Hi")
            assert key_seen(server) == f"Bearer {token}"


async def test_weft_token(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "weft"
    command.write_text('#!/bin/sh\n[ "$1" = token ] && echo from-login\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    async with AsyncClient(server.address, credential=GlobusLogin()) as client:
        await client.chat("m", "Hi")
    assert key_seen(server) == "Bearer from-login"
    command.write_text("#!/bin/sh\necho \"run 'weft login'\" >&2; exit 1\n")
    with pytest.raises(NotAllowed, match="weft login"):
        GlobusLogin().token()


async def test_big_messages_pass_up_to_the_limit(server: Server) -> None:
    assert MAX_MESSAGE_BYTES == channel.MAX_MESSAGE_BYTES
    async with AsyncClient(server.address) as client:
        big = "x" * (20 * MIB)
        assert (await client.chat("m", ["Repeat.", big])).choices[0].message.text == big
        with pytest.raises(InvalidRequest) as failed:
            await client.chat("m", "x" * (MAX_MESSAGE_BYTES + 1))
    assert failed.value.reason == "BODY_TOO_LARGE"
