"""The catalogue's HTTP endpoints as servers of the roster, with a simulated vLLM as the provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.core.answers import collect
from services.core.catalogue import Catalogue, Deleted, Endpoint, HttpBackend, ModelBinding
from services.core.deadlines import Bounds
from services.core.errors import Reason, ServiceError
from services.core.inference import Request
from services.router.backends.http import HttpEndpoints
from services.router.roster import Roster
from services.sim.config import SimConfig
from tests.testing.sim import running_sim

NAME = "clusters/web/endpoints/api"
BODY = b'{"model":"own","prompt":"a","max_tokens":1}'
REQUEST = Request("/v1/completions", (("content-type", "application/json"), ("authorization", "Bearer client")), BODY)


@pytest.fixture
async def endpoints() -> AsyncIterator[tuple[Roster, HttpEndpoints]]:
    roster = Roster(settle=0)
    made = HttpEndpoints(roster, Bounds())
    yield roster, made
    await made.close()
    assert roster.servers == ()


def follow(roster: Roster, endpoints: HttpEndpoints, catalogue: Catalogue) -> None:
    endpoints.follow(catalogue)
    roster.set_catalogue(catalogue)


def api(backend: HttpBackend) -> Catalogue:
    return Catalogue.of([Endpoint(NAME, backend, models=(ModelBinding("public", "own"),))])


async def test_an_endpoint_is_there_as_long_as_the_catalogue_has_it(endpoints):
    roster, followed = endpoints
    first = api(HttpBackend("http://127.0.0.1:1"))
    follow(roster, followed, first)
    (target,) = roster.find("public")
    assert (target.served_model, target.server.instance, target.server.ready) == ("own", "http://127.0.0.1:1", True)
    follow(roster, followed, first)
    assert roster.find("public")[0].server is target.server, "nothing has changed for it"
    follow(roster, followed, api(HttpBackend("http://127.0.0.1:2")))
    assert [server.instance for server in roster.servers] == ["http://127.0.0.1:2"]
    follow(roster, followed, first.apply([Deleted(NAME)]))
    assert (roster.servers, roster.find("public")) == ((), None)


async def test_the_providers_key_is_read_anew_at_each_call_and_the_clients_is_never_sent(endpoints, tmp_path: Path):
    roster, followed = endpoints
    key = tmp_path / "key"
    async with running_sim(SimConfig(port=0, models=("own",), ttft_s=0, api_key="right")) as (url, _):
        follow(roster, followed, api(HttpBackend(url, api_key_file=str(key))))
        inference = roster.servers[0].inference
        with pytest.raises(ServiceError) as caught:
            await collect(inference, REQUEST)
        assert caught.value.reason is Reason.UPSTREAM_UNREACHABLE
        key.write_text("wrong\n")
        with pytest.raises(ServiceError, match="refuses the router's key"):
            await collect(inference, REQUEST)
        key.write_text("right\n")
        assert (await collect(inference, REQUEST))[0].status == 200


async def test_a_key_from_the_environment(endpoints, monkeypatch):
    roster, followed = endpoints
    async with running_sim(SimConfig(port=0, models=("own",), ttft_s=0, api_key="right")) as (url, _):
        follow(roster, followed, api(HttpBackend(url, api_key_env="TEST_PROVIDER_KEY")))
        inference = roster.servers[0].inference
        with pytest.raises(ServiceError, match="The router has no key for this endpoint"):
            await collect(inference, REQUEST)
        monkeypatch.setenv("TEST_PROVIDER_KEY", "right")
        assert (await collect(inference, REQUEST))[0].status == 200


async def test_a_call_under_way_outlives_the_change_of_its_endpoint(endpoints):
    roster, followed = endpoints
    async with running_sim(SimConfig(port=0, models=("own",), ttft_s=0.2)) as (url, _):
        follow(roster, followed, api(HttpBackend(url)))
        answer = asyncio.create_task(collect(roster.servers[0].inference, REQUEST))
        await asyncio.sleep(0)
        follow(roster, followed, Catalogue())
        assert (await answer)[0].status == 200
