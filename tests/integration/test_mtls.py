"""Mutual TLS between parts, over real sockets: who gets in as whom, and what happens when certificates change."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from services.core.errors import Reason
from services.rpc.channel import bearer, dial
from services.rpc.errors import from_rpc_error
from services.rpc.peer import FORWARDED, part_host, part_id
from services.rpc.reloading_channel import ReloadingChannel
from services.rpc.server import check_health
from services.rpc.wire import Wire
from tests.testing.certificates import DAY, Authority
from tests.testing.mtls import DOMAIN, ENVOY, SERVICE, TIMEOUT, Counting, Pki, ask, serving, wire

ALICE = "spiffe://weft/users/alice"


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture
async def router(pki: Pki) -> AsyncIterator[str]:
    """A router's address."""
    async with serving(pki.wire("router")) as address:
        yield address


async def refusal(caller: Wire, address: str, method: str = "Who", *metadata: tuple[str, str]) -> Reason:
    """Why a call fails; ROUTER_UNAVAILABLE where there is no connection."""
    async with caller.dial(address, "router") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, method, *metadata)
    return from_rpc_error(caught.value, unavailable=Reason.ROUTER_UNAVAILABLE).reason


async def name(caller: Wire, address: str, method: str = "Who", *metadata: tuple[str, str]) -> str:
    """As whom a call gets through."""
    async with caller.dial(address, "router") as channel:
        return await ask(channel, method, *metadata)


async def test_parts_and_callers_are_known_by_their_certificates(pki: Pki, router: str) -> None:
    assert await name(pki.wire("registry"), router, "Parts") == "services/registry"
    assert await name(pki.wire("admin"), router, "Administer") == "services/admin"
    assert await name(wire(pki.files(ALICE, file="alice")), router) == "users/alice"


async def test_a_key_counts_before_the_certificate(pki: Pki, router: str) -> None:
    assert await name(pki.wire("admin"), router, "Who", *bearer("user")) == "users/user"
    assert await refusal(pki.wire("admin"), router, "Administer", *bearer("user")) is Reason.ACTION_FORBIDDEN


@pytest.mark.parametrize("method", ["Who", "Parts", "Administer"])
@pytest.mark.parametrize("part", ["worker", "facade"])
async def test_workers_and_facades_may_do_nothing_by_certificate_alone(
    pki: Pki, router: str, part: str, method: str
) -> None:
    assert await refusal(pki.wire(part), router, method) is Reason.ACTION_FORBIDDEN


@pytest.mark.parametrize(
    ("uris", "reason"),
    [
        (("spiffe://weft/services/unknown",), Reason.IDENTITY_FORBIDDEN),
        (("spiffe://weft/weft/other",), Reason.IDENTITY_FORBIDDEN),
        (("spiffe://other/weft/admin",), Reason.CREDENTIAL_MISSING),
        ((part_id(DOMAIN, "admin"), ALICE), Reason.CREDENTIAL_MISSING),
        (("https://weft/weft/admin",), Reason.CREDENTIAL_MISSING),
        (("router.weft.weft",), Reason.CREDENTIAL_MISSING),
    ],
)
async def test_ids_that_are_nobodys(pki: Pki, router: str, uris: tuple[str, ...], reason: Reason) -> None:
    assert await refusal(wire(pki.files(*uris, file="caller")), router) is reason


async def test_without_a_certificate_there_is_no_connection(pki: Pki, router: str) -> None:
    credentials = grpc.ssl_channel_credentials(pki.bundle.read_bytes())
    options = (("grpc.ssl_target_name_override", part_host(DOMAIN, "router")),)
    async with grpc.aio.secure_channel(router, credentials, options=options) as channel:
        assert not await check_health(channel, "", timeout=TIMEOUT), "health too is for holders of certificates"
    async with dial(router) as channel:
        assert not await check_health(channel, "", timeout=TIMEOUT)
    async with pki.wire("worker").dial(router, "router") as channel:
        assert await check_health(channel, "", timeout=TIMEOUT)


@pytest.mark.parametrize("fault", ["of another authority", "expired"])
async def test_certificates_that_are_no_good(pki: Pki, router: str, tmp_path: Path, fault: str) -> None:
    other = Authority(tmp_path, "other")
    lasts = timedelta(seconds=-1) if fault == "expired" else DAY
    bad = pki.files(part_id(DOMAIN, "admin"), file="bad", lasts=lasts, authority=None if fault == "expired" else other)
    credentials = grpc.ssl_channel_credentials(
        pki.bundle.read_bytes(), bad.key.read_bytes(), bad.certificate.read_bytes()
    )
    options = (("grpc.ssl_target_name_override", part_host(DOMAIN, "router")),)
    async with grpc.aio.secure_channel(router, credentials, options=options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_part_takes_no_other_for_the_one_that_it_dials(pki: Pki) -> None:
    for shown in (("registry.weft.weft", part_id(DOMAIN, "registry")), (part_id(DOMAIN, "router"), "localhost")):
        async with serving(wire(pki.files(*shown, "127.0.0.1", file="server"))) as address:
            assert await refusal(pki.wire("facade"), address) is Reason.ROUTER_UNAVAILABLE


async def test_a_server_of_another_authority_is_not_dialled(pki: Pki, tmp_path: Path) -> None:
    async with serving(wire(pki.part("router", Authority(tmp_path, "other")))) as address:
        assert await refusal(pki.wire("facade"), address) is Reason.ROUTER_UNAVAILABLE


async def test_only_envoy_speaks_for_its_clients(pki: Pki, router: str) -> None:
    envoy = wire(pki.files(ENVOY, file="envoy"))
    told = (FORWARDED, f"By={ENVOY};Hash=00;URI={ALICE}")
    assert await name(envoy, router, "Who", told) == "users/alice"
    assert await refusal(envoy, router) is Reason.CREDENTIAL_MISSING
    assert await refusal(envoy, router, "Who", told, told) is Reason.CREDENTIAL_MISSING
    # Not even Envoy makes its client a part of the mesh.
    admin = (FORWARDED, f"By={ENVOY};Hash=00;URI={part_id(DOMAIN, 'admin')}")
    assert await refusal(envoy, router, "Administer", admin) is Reason.IDENTITY_FORBIDDEN
    # Anybody else is who their own certificate says.
    bob = wire(pki.files("spiffe://weft/users/bob", file="bob"))
    assert await name(bob, router, "Who", told) == "users/bob"
    assert await refusal(bob, router, "Administer", admin) is Reason.ACTION_FORBIDDEN


class Load:
    """Callers who call without a pause, and tell how often it went well."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._done = 0
        self._changed = asyncio.Event()

    async def call_on(self) -> None:
        """Calls until cancelled. Raises what a call raises."""
        while True:
            assert await ask(self._channel) == "services/registry"
            self._done += 1
            self._changed.set()

    async def some(self, calls: int = 40) -> None:
        """Waits for so many calls that end after this moment."""
        enough = self._done + calls
        async with asyncio.timeout(TIMEOUT):
            while self._done < enough:
                self._changed.clear()
                await self._changed.wait()

    async def until_retired(self, channel: ReloadingChannel, connections: int) -> None:
        """Goes on until so many retired connections are left: a call may be slow to end on the one where it began."""
        async with asyncio.timeout(TIMEOUT):
            while channel.retired != connections:
                await self.some(1)


async def test_certificates_and_authorities_rotate_under_load_without_a_failed_call(pki: Pki, tmp_path: Path) -> None:
    old, new = pki.authority, Authority(tmp_path, "new")
    counting = Counting()
    async with serving(pki.wire("router"), counting=counting) as address:
        registry = pki.wire("registry")
        async with registry.dial(address, "router") as channel, asyncio.TaskGroup() as group:
            assert isinstance(channel, ReloadingChannel)
            load = Load(channel)
            callers = [group.create_task(load.call_on()) for _ in range(8)]
            stream = channel.unary_stream(f"/{SERVICE}/Count")(b"", timeout=3 * TIMEOUT)  # for all of the test
            counting.go_on.release()
            assert await stream.read() == b"0"
            await load.some()
            for part in ("router", "registry"):  # the certificates
                pki.part(part)
                await load.some()
            pki.trust(old, new)  # then the authority: both are trusted while one takes over
            await load.some()
            for part in ("router", "registry"):
                pki.part(part, new)
                await load.some()
            pki.trust(new)
            await load.some()
            await load.until_retired(channel, 1)  # where the stream is
            counting.go_on.release()
            counting.go_on.release()
            assert [await stream.read(), await stream.read(), await stream.read()] == [b"1", b"2", grpc.aio.EOF]
            await load.some()
            await load.until_retired(channel, 0)
            for task in callers:
                task.cancel()
        stranger = wire(pki.files(part_id(DOMAIN, "registry"), file="stranger", authority=old))
        assert await refusal(stranger, address) is Reason.ROUTER_UNAVAILABLE


async def test_half_written_files_change_nothing(pki: Pki) -> None:
    async with serving(pki.wire("router")) as address:
        registry = pki.wire("registry")
        async with registry.dial(address, "router") as channel:
            for file in ("router.pem", "router.key", "registry.pem", "registry.key", "bundle.pem"):
                whole = (pki.bundle.parent / file).read_bytes()
                (pki.bundle.parent / file).write_bytes(whole[:90])
                assert await ask(channel) == "services/registry"
                assert await name(registry, address) == "services/registry"
                (pki.bundle.parent / file).write_bytes(whole)
                assert await name(registry, address) == "services/registry"
