"""The client leaves: vLLM stops computing."""

import asyncio
import time

import pytest
from weft.client import AsyncClient
from weft.client.requests import ChatOptions

from tests.vllm.calls import LONG, LONG_CALLS, long_call
from tests.vllm.conftest import Measured
from tests.vllm.exchange import send
from tests.vllm.mesh import Mesh
from tests.vllm.processes import Deadline
from tests.vllm.rows import completions
from tests.vllm.rows.row import CHAT_MODEL, JSON, encode
from tests.vllm.server import VllmServer

# The bound is 1 s; this is for machines that starve a process now and then. That a call has not simply come to its end
# is told by its tokens.
LIMIT_SECONDS = 60


def one_runs(server: VllmServer) -> None:
    """Wait until a call is computed."""
    for _ in Deadline(LIMIT_SECONDS, "vLLM computes"):
        if server.running == 1:
            break


def nothing_runs(server: VllmServer) -> None:
    """Wait for the end of what runs, and make sure that it is the end: one more token is one more, not two."""
    for _ in Deadline(LIMIT_SECONDS, "vLLM has stopped computing"):
        if server.running == 0:
            break
    before = server.generated
    send(server.url, "POST", "/v1/completions", JSON, encode({**completions.BASE, "max_tokens": 1}))
    for _ in Deadline(LIMIT_SECONDS, "the one token is counted"):
        if server.generated > before:
            break
    assert server.generated == before + 1


@pytest.mark.parametrize("path", LONG_CALLS)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unstreamed"])
def test_a_client_that_leaves_stops_vllm(
    chat_server: VllmServer, mesh: Mesh, measured: Measured, path: str, stream: bool
) -> None:
    before = chat_server.generated
    call = long_call(mesh, path, stream=stream)
    if stream:
        call.first_events()
    one_runs(chat_server)
    left = time.monotonic()
    call.leave()
    nothing_runs(chat_server)
    assert chat_server.generated - before < LONG // 2
    measured(f"client gone, {path}, {'streamed' if stream else 'unstreamed'}", time.monotonic() - left)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "unstreamed"])
async def test_a_caller_of_the_typed_api_that_leaves_stops_vllm(
    chat_server: VllmServer, mesh: Mesh, measured: Measured, stream: bool
) -> None:
    async with AsyncClient(mesh.router, credential=mesh.key) as client:
        how: ChatOptions = {"max_tokens": LONG, "extra": {"ignore_eos": True}}
        before = await asyncio.to_thread(lambda: chat_server.generated)
        if stream:
            answer = client.stream_chat(CHAT_MODEL, "Count.", **how)
            assert await anext(answer.text())
            leave = answer.close
        else:
            asked = asyncio.create_task(client.chat(CHAT_MODEL, "Count.", **how))
            leave = asked.cancel
        await asyncio.to_thread(one_runs, chat_server)
        left = time.monotonic()
        leave()
        await asyncio.to_thread(nothing_runs, chat_server)
        assert await asyncio.to_thread(lambda: chat_server.generated) - before < LONG // 2
        measured(f"typed client gone, {'streamed' if stream else 'unstreamed'}", time.monotonic() - left)


def test_leaving_disturbs_no_other(chat_server: VllmServer, mesh: Mesh) -> None:
    before = chat_server.generated
    stays = long_call(mesh, stream=True, max_tokens=1000)
    stays.first_events()
    for _ in range(5):
        leaves = long_call(mesh, stream=True)
        leaves.first_events(1)
        leaves.leave()
    assert stays.rest().endswith("data: [DONE]\n\n")
    nothing_runs(chat_server)
    assert chat_server.generated - before < 1000 + LONG
