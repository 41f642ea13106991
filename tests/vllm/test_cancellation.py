"""The client leaves: vLLM stops computing."""

import time

import pytest

from tests.vllm.calls import LONG_CALLS, long_call
from tests.vllm.conftest import Measured
from tests.vllm.exchange import send
from tests.vllm.mesh import Mesh
from tests.vllm.processes import Deadline
from tests.vllm.rows import completions
from tests.vllm.rows.row import JSON, encode
from tests.vllm.server import VllmServer

# The bound is 1 s; this is for machines that starve a process now and then.
LIMIT_SECONDS = 8


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
    call = long_call(mesh, path, stream=stream)
    if stream:
        call.first_events()
    for _ in Deadline(30, "vLLM computes"):
        if chat_server.running == 1:
            break
    left = time.monotonic()
    call.leave()
    nothing_runs(chat_server)
    measured(f"client gone, {path}, {'streamed' if stream else 'unstreamed'}", time.monotonic() - left)


def test_leaving_disturbs_no_other(chat_server: VllmServer, mesh: Mesh) -> None:
    stays = long_call(mesh, stream=True, max_tokens=1000)
    stays.first_events()
    for _ in range(5):
        leaves = long_call(mesh, stream=True)
        leaves.first_events(1)
        leaves.leave()
    assert stays.rest().endswith("data: [DONE]\n\n")
    nothing_runs(chat_server)
