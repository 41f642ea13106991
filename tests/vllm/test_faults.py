"""Parts die while calls run: every call ends, visibly broken or whole, and service returns by itself."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.vllm.calls import LONG_CALLS, Call, error_of, long_call
from tests.vllm.conftest import Measured
from tests.vllm.exchange import Answer, send
from tests.vllm.mesh import Mesh
from tests.vllm.processes import Deadline
from tests.vllm.rows import chat
from tests.vllm.rows.row import CHAT_MODEL, JSON, encode
from tests.vllm.server import START_SECONDS, VllmServer

# The bounds are 10 s for the end of a call and 5 s for the return of service; these are for starved machines.
END_SECONDS = 30
RETURN_SECONDS = 30
# One of two vLLMs may stand still for 20 s, and its worker calls it unhealthy for that while.
UNDER_WAY_SECONDS = 120
PATHS = list(LONG_CALLS)
# How the last event of a complete stream ends, where its last event has no other content.
WHOLE_ENDS = ("data: [DONE]", '{"type":"message_stop"}')


@pytest.fixture(scope="module")
def twins(chat_command: list[str], logs: Path) -> Iterator[list[VllmServer]]:
    """Two vLLMs that serve the same model, for tests that kill them."""
    pair = [VllmServer(chat_command, CHAT_MODEL, logs / f"twin-{number}.log") for number in range(2)]
    yield pair
    for server in pair:
        server.stop()


@pytest.fixture
def twin_mesh(twins: list[VllmServer], tmp_path: Path) -> Iterator[Mesh]:
    """A mesh over both twins, which are alive, and which the router has both seen."""
    dead = [server for server in twins if not server.alive]
    for server in dead:
        server.start()
    for server in dead:
        server.ready()
    started = Mesh(tmp_path / "home", [server.url for server in twins])
    try:
        started.ready(CHAT_MODEL)
        until_both_compute(started, twins)
        yield started
    finally:
        started.stop()


def until_both_compute(mesh: Mesh, twins: list[VllmServer]) -> None:
    """Two calls at once go to two workers, as soon as the router knows of both."""
    for _ in Deadline(UNDER_WAY_SECONDS, "the router uses both workers"):
        calls = [long_call(mesh, stream=True) for _ in twins]
        # On a starved machine the parts may lose each other for a moment; that is not what is set up here.
        spread = all_begin(calls) and [server.running for server in twins] == [1, 1]
        leave(calls, twins)
        if spread:
            return


def all_begin(calls: Iterable[Call]) -> bool:
    """Whether all calls have begun to be answered. Of each it is known: none arrives after it has been left."""
    begun = [call.begins() for call in calls]
    return all(begun)


def leave(calls: Iterable[Call], twins: list[VllmServer]) -> None:
    """Goes away from the calls, and waits until nothing of them is computed any more."""
    for call in calls:
        call.leave()
    for _ in Deadline(UNDER_WAY_SECONDS, "the calls that were left have ended"):
        if not any(server.running for server in twins):
            break


def streams_under_way(mesh: Mesh, twins: list[VllmServer]) -> dict[str, Call]:
    """A stream of every kind, all at once. A vLLM may stand still for so long that the streams of the other end."""
    for _ in Deadline(UNDER_WAY_SECONDS, "a stream of every kind is under way"):
        calls = {path: long_call(mesh, path, stream=True) for path in PATHS}
        if all_begin(calls.values()) and sum(server.running for server in twins) == len(calls):
            return calls
        leave(calls.values(), twins)
    raise AssertionError("unreachable")


def computing(twins: list[VllmServer]) -> VllmServer:
    for _ in Deadline(END_SECONDS, "one of the twins computes"):
        for server in twins:
            if server.running:
                return server
    raise AssertionError("unreachable")


def ask(mesh: Mesh) -> Answer:
    return send(mesh.url, "POST", "/v1/chat/completions", {**JSON, **mesh.authorization}, encode(chat.BASE))


def ends_broken(path: str, call: Call) -> None:
    """The stream ends, says why in the shape of its route, and does not look whole."""
    rest = call.rest()
    error = error_of(rest)
    assert error is not None, rest[-2000:]
    assert not rest.rstrip().endswith(WHOLE_ENDS), rest[-2000:]
    assert error["message"]
    if path in ("/v1/messages", "/v1/responses"):
        assert "event: error\n" in rest


def service_returns(mesh: Mesh, measured: Measured, after: str) -> None:
    returned = time.monotonic()
    for _ in Deadline(RETURN_SECONDS, "the mesh serves again"):
        if ask(mesh).status == 200:
            break
    measured(f"{after}: full service again", time.monotonic() - returned)


def test_vllm_killed_before_the_first_byte(twins: list[VllmServer], twin_mesh: Mesh, measured: Measured) -> None:
    """The other worker gives the whole answer."""
    call = long_call(twin_mesh, stream=False, max_tokens=2000)
    computing(twins).kill()
    killed = time.monotonic()
    answer = json.loads(call.rest())
    measured("vLLM killed before the first byte: answered by the other", time.monotonic() - killed)
    assert call.response.status == 200
    assert answer["usage"]["completion_tokens"] == 2000


def test_vllm_killed_in_mid_stream(twins: list[VllmServer], twin_mesh: Mesh, measured: Measured) -> None:
    """All vLLMs are killed under one stream of every kind; one returns."""
    calls = streams_under_way(twin_mesh, twins)
    for server in twins:
        server.kill()
    killed = time.monotonic()
    for path, call in calls.items():
        ends_broken(path, call)
    measured("vLLM killed in mid-stream: every stream ended", time.monotonic() - killed)
    assert time.monotonic() - killed < END_SECONDS
    # At first the workers find nobody to ask; once they have told the router, it asks no worker.
    for _ in Deadline(END_SECONDS, "the router knows that nobody serves the model"):
        refused = ask(twin_mesh)
        assert refused.status in (502, 503)
        assert set(json.loads(refused.body)["error"]) >= {"message", "type", "code"}
        if refused.status == 503:
            break
    twins[0].start()
    twins[0].ready()
    service_returns(twin_mesh, measured, "vLLM back")


def test_vllm_terminated_in_mid_stream(twins: list[VllmServer], twin_mesh: Mesh, measured: Measured) -> None:
    """By default vLLM answers SIGTERM by ending its engine: streams then end as aborted, or stay open and silent."""
    call = long_call(twin_mesh, stream=True)
    call.first_events()
    told_to_end = computing(twins)
    told_to_end.process.signal(signal.SIGTERM)
    told = time.monotonic()
    rest = call.rest()
    assert error_of(rest) or '"finish_reason":"abort"' in rest, rest[-2000:]
    measured("vLLM terminated in mid-stream: the stream ended", time.monotonic() - told)
    assert ask(twin_mesh).status == 200
    told_to_end.stop()  # Else it may be taken for alive a moment before it ends.


def test_worker_killed_in_mid_stream(chat_server: VllmServer, fragile_mesh: Mesh, measured: Measured) -> None:
    call = long_call(fragile_mesh, stream=True)
    call.first_events()
    os.kill(fragile_mesh.worker(chat_server.url), signal.SIGKILL)
    killed = time.monotonic()
    ends_broken(PATHS[0], call)
    measured("worker killed in mid-stream: the stream ended", time.monotonic() - killed)
    for _ in Deadline(END_SECONDS, "vLLM has stopped computing"):
        if chat_server.running == 0:
            break


def test_worker_terminated_in_mid_stream(chat_server: VllmServer, fragile_mesh: Mesh, measured: Measured) -> None:
    """SIGTERM to a worker lets its calls finish: 10 s by `weft up`, for what takes 2 on idle cores."""
    worker = fragile_mesh.worker(chat_server.url)
    call = long_call(fragile_mesh, stream=True, max_tokens=600)
    call.first_events()
    os.kill(worker, signal.SIGTERM)
    told = time.monotonic()
    rest = call.rest()
    assert rest.endswith("data: [DONE]\n\n"), rest[-700:]
    assert error_of(rest) is None
    for _ in Deadline(END_SECONDS, "the worker has ended"):
        if not runs(worker):
            break
    measured("worker terminated in mid-stream: calls finished and worker gone", time.monotonic() - told)


def runs(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_vllm_that_starts_late(chat_command: list[str], twins: list[VllmServer], tmp_path: Path) -> None:
    """A worker whose vLLM is not there yet waits for it."""
    late = twins[0]
    late.stop()
    started = Mesh(tmp_path / "home", [late.url])
    try:
        started.ready()
        assert started.models() == set()
        late.start()
        for _ in Deadline(START_SECONDS, "the mesh serves the late vLLM"):
            if started.models() and ask(started).status == 200:
                break
    finally:
        started.stop()
