"""The simulated vLLM over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import openai
import pytest

from services.sim.config import SimConfig
from services.sim.faults import Fault
from tests.testing.sim import running_sim

FAST = SimConfig(port=0, ttft_s=0.0, inter_token_s=0.001)
#: Calls that end only if something ends them.
ENDLESS = SimConfig(port=0, ttft_s=3600.0)
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}


@contextlib.asynccontextmanager
async def sim(config: SimConfig) -> AsyncIterator[aiohttp.ClientSession]:
    """A running simulator and a client of it."""
    async with running_sim(config) as (address, _), aiohttp.ClientSession(address) as client:
        yield client


async def gauge(client: aiohttp.ClientSession, name: str) -> float:
    async with client.get("/metrics") as response:
        for line in (await response.text()).splitlines():
            if line.startswith(f"vllm:{name}{{"):
                return float(line.split()[-1])
    raise AssertionError(f"no metric {name}")


async def until(client: aiohttp.ClientSession, name: str, value: float) -> None:
    while await gauge(client, name) != value:
        pass


async def test_the_openai_client_is_served():
    async with running_sim(replace(FAST, models=("a", "b"), api_key="key")) as (address, _):
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="key", max_retries=0) as client:
            assert [model.id async for model in client.models.list()] == ["a", "b"]
            messages = [{"role": "user", "content": "hi"}]
            whole = await client.chat.completions.create(model="b", messages=messages, max_tokens=9)
            stream = await client.chat.completions.create(model="b", messages=messages, max_tokens=9, stream=True)
            text = "".join([chunk.choices[0].delta.content async for chunk in stream])
            assert text == whole.choices[0].message.content
            assert (whole.model, whole.usage.completion_tokens) == ("b", 9)
            vectors = await client.embeddings.create(model="a", input=["x", "y"])
            plain = await client.embeddings.create(model="a", input=["x", "y"], encoding_format="float")
            assert [each.embedding for each in vectors.data] == [pytest.approx(each.embedding) for each in plain.data]
            with pytest.raises(openai.NotFoundError, match="Valid aliases: a, b"):
                await client.chat.completions.create(model="c", messages=messages)
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/nope", 404, '{"detail":"Not Found"}'),
        ("GET", "/v1/chat/completions", 405, '{"detail":"Method Not Allowed"}'),
        ("POST", "/v1/models", 405, '{"detail":"Method Not Allowed"}'),
        ("GET", "/health", 200, ""),
        ("POST", "/ping", 200, ""),
        ("GET", "/version", 200, '{"version":"0.32.0"}'),
        ("GET", "/load?x=1", 200, '{"server_load":0}'),
    ],
)
async def test_plain_routes_answer_as_vllms(method, path, status, body):
    async with sim(FAST) as client, client.request(method, path) as response:
        assert (response.status, await response.text()) == (status, body)
        assert ("allow" in response.headers) == (status == 405)


async def test_what_the_simulator_cannot_cope_with_is_a_500_and_the_server_lives_on():
    """A schema that is none: vLLM refuses it by a library that the simulator does without."""
    senseless = {"type": "json_schema", "json_schema": {"schema": {"properties": 3}}}
    async with sim(FAST) as client:
        async with client.post("/v1/chat/completions", json={**CHAT, "response_format": senseless}) as response:
            assert response.status == 500
        assert (await client.get("/health")).status == 200


async def test_text_becomes_tokens_and_back():
    async with sim(FAST) as client:
        async with client.post("/tokenize", json={"prompt": "grüß dich", "return_token_strs": True}) as response:
            answer = await response.json()
        assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"]) == 3
        async with client.post("/detokenize", json={"tokens": answer["tokens"]}) as response:
            assert await response.json() == {"prompt": "grüß dich"}


async def test_an_id_given_by_the_client_is_the_answers():
    async with sim(FAST) as client:
        response = await client.post("/v1/chat/completions", json=CHAT, headers={"x-request-id": 'a"1'})
        assert (await response.json())["id"] == 'chatcmpl-a"1'


async def test_many_requests_share_a_connection_and_bodies_may_be_chunked():
    async def pieces():
        raw = json.dumps(CHAT).encode()
        yield raw[:10]
        yield raw[10:]

    headers = {"content-type": "application/json"}
    async with running_sim(FAST) as (address, _):
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(address, connector=connector, headers=headers) as client:
            for _ in range(3):
                async with client.post("/v1/chat/completions", data=pieces()) as response:
                    assert (await response.json())["usage"]["completion_tokens"] == 5


async def test_bytes_that_are_not_http_are_refused():
    async with running_sim(FAST) as (address, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
        writer.write(b"nonsense\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.endswith(b"Invalid HTTP request received.")


@pytest.mark.parametrize("stream", [True, False])
async def test_when_the_client_leaves_its_call_stops(stream):
    async with sim(ENDLESS) as client:
        call = asyncio.ensure_future(client.post("/v1/chat/completions", json={**CHAT, "stream": stream}))
        await until(client, "num_requests_running", 1)
        if stream:
            (await call).close()
        call.cancel()
        await until(client, "num_requests_running", 0)


async def test_calls_wait_for_a_slot_and_past_the_queue_get_503():
    async with sim(replace(ENDLESS, max_num_seqs=1, max_num_queued_reqs=1)) as client:
        calls = []
        for running_calls, waiting in ((1, 0), (1, 1)):
            calls.append(asyncio.ensure_future(client.post("/v1/chat/completions", json=CHAT)))
            await until(client, "num_requests_running", running_calls)
            await until(client, "num_requests_waiting", waiting)
        async with client.post("/v1/chat/completions", json=CHAT) as response:
            assert response.status == 503
            assert (await response.json())["error"]["type"] == "ServiceUnavailableError"
        calls[0].cancel()
        await until(client, "num_requests_waiting", 0)
        assert await gauge(client, "num_requests_running") == 1
        calls[1].cancel()


async def test_a_slow_reader_costs_no_memory_and_gets_everything(traced_memory: None):
    """The engine finishes 23 MB of events that nobody reads; they are made when the client takes them."""
    config = replace(FAST, inter_token_s=0.0, max_model_len=10**6)
    body = json.dumps({**CHAT, "max_tokens": 100_000, "stream": True}).encode()
    async with running_sim(config) as (address, _), aiohttp.ClientSession(address) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]), limit=2**16)
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
        )
        writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        before, _ = tracemalloc.get_traced_memory()
        await until(client, "generation_tokens_total", 100_000)
        after, _ = tracemalloc.get_traced_memory()
        assert after - before < 4_000_000
        assert await gauge(client, "num_requests_running") == 0
        received = await reader.read(-1)
        writer.close()
    assert received.count(b'"content":" ') == 100_000
    assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.fixture
def traced_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


async def fault(client: aiohttp.ClientSession, **fields: object) -> None:
    async with client.post("/sim/faults", json=fields) as response:
        assert response.status == 200


async def test_a_dying_stream_ends_without_its_end():
    async with sim(FAST) as client:
        await fault(client, die_after_tokens=2)
        response = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
        events = [await response.content.readuntil(b"\n\n") for _ in range(3)]
        assert b'"content":" ' in events[-1]
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.readuntil(b"\n\n")
        assert await gauge(client, "num_requests_running") == 0
        async with client.post("/v1/chat/completions", json=CHAT) as response:
            assert response.status == 200


async def test_a_stalled_stream_stays_silent_until_its_client_leaves():
    async with sim(FAST) as client:
        await fault(client, stall_after_tokens=1)
        async with client.post("/v1/chat/completions", json={**CHAT, "stream": True}) as response:
            while b'"content":" ' not in await response.content.readline():
                pass
            assert await gauge(client, "num_requests_running") == 1
            assert await gauge(client, "generation_tokens_total") == 1
            response.close()
        await until(client, "num_requests_running", 0)


async def test_an_engine_error_in_mid_stream_is_reported_as_vllm_does():
    async with sim(FAST) as client:
        await fault(client, error_after_tokens=1)
        async with client.post("/v1/completions", json={"prompt": "x", "stream": True}) as response:
            *_, error, done = (await response.text()).strip().split("\n\n")
        assert json.loads(error.removeprefix("data: "))["error"]["type"] == "InternalServerError"
        assert done == "data: [DONE]"


async def test_faults_strike_as_often_as_asked_and_can_be_taken_back():
    async with sim(replace(FAST, faults=(Fault(status=503, times=2), Fault(reset_before_head=True)))) as client:
        for _ in range(2):
            async with client.post("/v1/chat/completions", json=CHAT) as response:
                assert response.status == 503
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.post("/v1/chat/completions", json=CHAT)
        await fault(client, refuse_health=True, times=5)
        assert [(await client.get("/health")).status, (await client.get("/ping")).status] == [503, 503]
        async with client.delete("/sim/faults") as response:
            assert await response.json() == {"waiting": 0}
        assert (await client.get("/health")).status == 200
        async with client.post("/sim/faults", json={"explode": True}) as response:
            assert response.status == 400
            assert "explode" in await response.text()


async def test_a_stopped_server_finishes_its_streams():
    config = replace(FAST, inter_token_s=0.005)
    async with running_sim(config) as (address, stop), aiohttp.ClientSession(address) as client:
        response = await client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 50, "stream": True})
        await response.content.readline()
        stop.set()
        assert (await response.text()).endswith("data: [DONE]\n\n")
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.get("/health")


async def test_a_stopped_server_waits_no_longer_than_its_grace():
    async with running_sim(replace(ENDLESS, grace_s=0.01)) as (address, stop), aiohttp.ClientSession(address) as client:
        response = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})
        stop.set()
        with pytest.raises(aiohttp.ClientError):
            await response.read()


async def test_the_command_serves_a_unix_socket_until_sigterm(tmp_path: Path):
    socket = str(tmp_path / "sim.sock")
    arguments = ["-m", "services.sim", "--uds", socket, "--model", "one", "--model", "two"]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(30):
        assert process.stdout
        assert (await process.stdout.readline()).decode().strip() == f"unix:{socket}"
        async with aiohttp.ClientSession("http://sim", connector=aiohttp.UnixConnector(socket)) as client:
            async with client.get("/v1/models") as response:
                assert [card["id"] for card in (await response.json())["data"]] == ["one", "two"]
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0


async def test_a_bad_setting_is_one_sentence():
    arguments = ["-m", "services.sim", "--max-num-seqs", "0"]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert said.decode() == "error: max_num_seqs: must be 1 or more, got 0\n"
    assert process.returncode == 1
