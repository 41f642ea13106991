"""One trace from the client to vLLM's own span, as a collector gets it, with the real vLLM.

One vLLM is launched by its worker, which tells it by `{otlp}` where to send its spans; the other runs already, and its
worker listens where it sends them.
"""

import json
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from weft.client import Client
from weft.inference.v1 import inference_pb2, inference_pb2_grpc
from weft.session.v1 import frame_pb2, session_pb2, session_pb2_grpc

from tests.testing.otlp_sink import SunkSpan
from tests.vllm.calls import LONG_CALLS, READ_SECONDS, Call
from tests.vllm.exchange import Answer, send
from tests.vllm.mesh import WEFT, Mesh
from tests.vllm.processes import Deadline, Process, free_port
from tests.vllm.rows.chat import BASE, PATH
from tests.vllm.rows.row import CHAT_MODEL, JSON, encode
from tests.vllm.server import ENVIRONMENT, START_SECONDS, VllmServer
from tests.vllm.traces import Caller, Collector, Node

ENDPOINT = "clusters/local/endpoints/vllm"
STREAMED = {**BASE, "stream": True, "stream_options": {"include_usage": True}}
LONG = {**LONG_CALLS[PATH], "model": CHAT_MODEL}

FACADE = f"weft-facade SERVER POST {PATH}"
ROUTER = f"weft-router SERVER chat {CHAT_MODEL}"
DISPATCH = f"weft-router CLIENT dispatch {ENDPOINT}"
WORKER = "weft-worker SERVER serve chat"
VLLM = "vllm SERVER llm_request"

# All clocks are one here; this is for its being set while a call runs.
SKEW_NS = 20_000_000


class Traced:
    """A mesh whose spans go to a collector, and whose two workers have a vLLM each."""

    def __init__(self, mesh: Mesh, collector: Collector, attached: VllmServer) -> None:
        self.mesh = mesh
        self.collector = collector
        self.attached = attached

    def ask(self, caller: Caller, fields: dict[str, Any]) -> Answer:
        headers = {**JSON, **self.mesh.authorization, **caller.header}
        return send(self.mesh.url, "POST", PATH, headers, encode(fields))

    def calls(self) -> list[int]:
        """How many calls each worker has or had that the router knows and whose vLLM answers."""
        metadata = [(name.lower(), value) for name, value in self.mesh.authorization.items()]
        with grpc.insecure_channel(self.mesh.router) as channel:
            stub = session_pb2_grpc.SessionServiceStub(channel)
            listed = stub.ListSessions(session_pb2.ListSessionsRequest(), metadata=metadata, timeout=READ_SECONDS)
        ready = frame_pb2.WORKER_STATE_READY
        serving = [one for one in listed.sessions if one.endpoint == ENDPOINT and one.report.state == ready]
        return [one.open_calls + one.ended_calls for one in serving]

    def tree(self, caller: Caller, outline: list[str]) -> Node:
        """The trace, which looks as expected and stays so: each process tells of its calls in order, so that nothing
        more comes of one when another has come that the same worker and vLLM answered later.
        """
        found = self.collector.tree(caller, lambda tree: tree.outline == outline)
        answered = found.find("weft-worker")[-1].resource["weft.instance"]
        for _ in Deadline(START_SECONDS, "the same worker answers another call"):
            later = Caller()
            assert self.ask(later, BASE).status == 200
            tree = self.collector.tree(later, lambda tree: bool(tree.find("vllm")))
            if tree.find("weft-worker")[0].resource["weft.instance"] == answered:
                break
        again = self.collector.tree(caller, lambda tree: True)
        assert again.outline == outline
        nests(again)
        return again


def nests(node: Node) -> None:
    """No span reaches beyond the one above, nor an event beyond its span."""
    span = node.span
    for event in span.events:
        assert span.start - SKEW_NS <= event.time <= span.end + SKEW_NS, (span, event)
    for child in node.children:
        assert span.start - SKEW_NS <= child.span.start <= child.span.end <= span.end + SKEW_NS, (span, child.span)
        nests(child)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as started:
        yield started


@pytest.fixture(scope="module")
def attached(chat_command: list[str], logs: Path) -> Iterator[tuple[VllmServer, int]]:
    """A vLLM that sends its spans to a port, where nobody listens yet."""
    port = free_port()
    command = [*chat_command, "--otlp-traces-endpoint", f"http://127.0.0.1:{port}"]
    server = VllmServer(command, CHAT_MODEL, logs / "traced.log")
    yield server, port
    server.stop()


@pytest.fixture(scope="module")
def workers(
    attached: tuple[VllmServer, int],
    collector: Collector,
    chat_command: list[str],
    logs: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mesh]:
    """A mesh with a worker that launches its vLLM, and one whose vLLM is attached."""
    home = tmp_path_factory.mktemp("traced") / "home"
    mesh = Mesh(home, [], settings=f"tracing: {{endpoint: '{collector.endpoint}'}}\n")
    started: list[Process] = []

    def start_worker(name: str, *options: str) -> None:
        command = [WEFT, "worker", "--router", mesh.router, *options]
        started.append(Process(command, logs / f"{name}.log", mesh.environment))

    try:
        mesh.ready()
        mesh.weft("endpoints", "create", ENDPOINT)
        server, port = attached
        server.start()
        variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        where = ["--host", "127.0.0.1", "--port", "{port}", "--otlp-traces-endpoint", "{otlp}"]
        start_worker("launches", "--vllm-command", shlex.join(["env", *variables, *chat_command, *where]))
        start_worker("attaches", "--vllm-url", server.url, "--otlp-address", f"127.0.0.1:{port}")
        yield mesh
    finally:
        for worker in started:
            worker.signal(signal.SIGTERM)
        for worker in started:
            worker.stop()
        mesh.stop()


@pytest.fixture
def traced(workers: Mesh, collector: Collector, attached: tuple[VllmServer, int]) -> Traced:
    """Both workers serve."""
    server, _ = attached
    if not server.alive:
        server.start()
    traced = Traced(workers, collector, server)
    for _ in Deadline(START_SECONDS, "both workers serve"):
        if len(traced.calls()) == 2:
            break
    return traced


def usage_of(stream: bytes) -> dict[str, int]:
    """The tokens that a stream says it used, in its last event before the end."""
    events = [line.removeprefix("data: ") for line in stream.decode().splitlines() if line.startswith("data: {")]
    usage: dict[str, int] = json.loads(events[-1])["usage"]
    return usage


def names(span: SunkSpan) -> list[str]:
    return [event.name for event in span.events]


def tells_all(tree: Node, usage: dict[str, int]) -> None:
    """What the spans of a whole answer say, from the router's to vLLM's."""
    (router, dispatch), (worker,), (vllm,) = tree.find("weft-router"), tree.find("weft-worker"), tree.find("vllm")
    assert {span.status for span in (router, dispatch, worker, vllm)} == {"unset"}
    told = router.attributes
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.request.model"] == CHAT_MODEL
    assert (told["gen_ai.request.stream"], told["gen_ai.request.max_tokens"]) == (True, BASE["max_tokens"])
    tokens = (usage["prompt_tokens"], usage["completion_tokens"])
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == tokens
    assert (told["weft.endpoint"], told["weft.attempts"], told["weft.outcome"]) == (ENDPOINT, 1, "ok")
    first, end = names(router).index("gen_ai.first_token"), names(router).index("end")
    assert first < end
    assert router.events[first].time < router.events[end].time
    assert dispatch.attributes["weft.attempt"] == 1
    assert dispatch.attributes["weft.endpoint"] == ENDPOINT
    assert dispatch.attributes["weft.backend"] == "session"
    assert dispatch.attributes["http.response.status_code"] == 200
    assert worker.attributes == {
        "gen_ai.operation.name": "chat",
        "http.response.status_code": 200,
        "weft.outcome": "ok",
    }
    assert names(worker) == ["head", "first byte", "end"]
    for span in (worker, vllm):
        assert span.resource["weft.endpoint"] == ENDPOINT
        assert span.resource["weft.instance"] == dispatch.attributes["weft.instance"]
    # vLLM 0.32 names them as the conventions did in 2024.
    assert (vllm.attributes["gen_ai.usage.prompt_tokens"], vllm.attributes["gen_ai.usage.completion_tokens"]) == tokens
    assert vllm.attributes["gen_ai.request.max_tokens"] == BASE["max_tokens"]
    assert 0 < vllm.attributes["gen_ai.latency.time_to_first_token"] <= vllm.attributes["gen_ai.latency.e2e"]


def test_a_streamed_chat_over_http(traced: Traced) -> None:
    caller = Caller()
    answer = traced.ask(caller, STREAMED)
    assert answer.streamed
    tree = traced.tree(caller, [FACADE, f"  {ROUTER}", f"    {DISPATCH}", f"      {WORKER}", f"        {VLLM}"])
    tells_all(tree, usage_of(answer.body))
    facade = tree.span
    assert facade.attributes["http.request.method"] == "POST"
    assert facade.attributes["http.route"] == PATH
    assert facade.attributes["http.response.status_code"] == 200
    assert "first byte" in names(facade)
    assert facade.status == "unset"
    (router, _) = tree.find("weft-router")
    assert (
        router.attributes["weft.request_id"] == facade.attributes["weft.request_id"] == answer.headers["x-request-id"]
    )
    # Nothing of what was said, nor who may say it.
    written = repr(traced.collector.spans(caller))
    assert BASE["messages"][0]["content"] not in written
    assert traced.mesh.key not in written


def test_a_streamed_chat_over_grpc_in_json(traced: Traced) -> None:
    """By `Infer`: the same, and no facade."""
    caller = Caller()
    request = inference_pb2.InferRequest(operation="chat/completions", body_json=encode(STREAMED).decode())
    metadata = [(name.lower(), value) for name, value in {**traced.mesh.authorization, **caller.header}.items()]
    with grpc.insecure_channel(traced.mesh.router) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        parts = list(stub.Infer(request, metadata=metadata, timeout=READ_SECONDS))
    body = "".join(part.text for part in parts).encode()
    tree = traced.tree(caller, [ROUTER, f"  {DISPATCH}", f"    {WORKER}", f"      {VLLM}"])
    tells_all(tree, usage_of(body))


def test_a_streamed_chat_over_grpc_in_messages(traced: Traced) -> None:
    """By `StreamChat`."""
    caller = Caller()
    with (
        Client(traced.mesh.router, credential=traced.mesh.key) as client,
        client.stream_chat(
            CHAT_MODEL,
            BASE["messages"][0]["content"],
            max_tokens=BASE["max_tokens"],
            temperature=0,
            metadata=tuple(caller.header.items()),
        ) as stream,
    ):
        usage = stream.result().usage
    tree = traced.tree(caller, [ROUTER, f"  {DISPATCH}", f"    {WORKER}", f"      {VLLM}"])
    tells_all(tree, {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens})


def test_a_stream_whose_client_leaves(traced: Traced) -> None:
    """Everybody says so, and nobody calls it an error. vLLM 0.32 makes no span of a request that it aborts."""
    caller = Caller()
    call = Call(traced.mesh, PATH, {**LONG, "stream": True}, caller.header)
    call.first_events()
    call.leave()
    tree = traced.tree(caller, [FACADE, f"  {ROUTER}", f"    {DISPATCH}", f"      {WORKER}"])
    (router, dispatch), (worker,) = tree.find("weft-router"), tree.find("weft-worker")
    assert {span.status for span in (tree.span, router, dispatch, worker)} == {"unset"}
    assert router.attributes["weft.outcome"] == worker.attributes["weft.outcome"] == "cancelled"
    assert names(worker) == ["head", "first byte", "cancelled"]
    assert "gen_ai.first_token" in names(router)
    assert "left" in names(tree.span)


def test_a_chat_that_is_retried_on_another_worker(traced: Traced) -> None:
    """Its vLLM is killed before the first byte. Both attempts are told: the first with its error, and with what its
    worker knew of it; the second with vLLM's own span.
    """
    callers = [Caller(), Caller()]
    fields = {**LONG, "max_tokens": 4000, "stream": False}
    earlier = sum(traced.calls())
    calls = [Call(traced.mesh, PATH, fields, caller.header) for caller in callers]  # one for each worker
    # One that came when the vLLM is dead would find nobody there, and be retried as well.
    for _ in Deadline(READ_SECONDS, "both calls have come, one to the vLLM that is to be killed"):
        if traced.attached.running and sum(traced.calls()) == earlier + len(calls):
            break
    traced.attached.kill()
    answers = [json.loads(call.rest()) for call in calls]
    assert [call.response.status for call in calls] == [200, 200]
    for _ in Deadline(READ_SECONDS, "the call that was retried is told"):
        retried = [number for number, one in enumerate(callers) if len(traced.collector.named(one, "dispatch")) == 2]
        if retried:
            break
    (number,) = retried
    failed = [f"    {DISPATCH}", f"      {WORKER}"]
    outline = [FACADE, f"  {ROUTER}", *failed, f"    {DISPATCH}", f"      {WORKER}", f"        {VLLM}"]
    tree = traced.tree(callers[number], outline)

    router, first, second = tree.find("weft-router")
    usage = answers[number]["usage"]
    told = router.attributes
    assert (told["weft.attempts"], told["weft.outcome"], router.status) == (2, "ok", "unset")
    assert told["gen_ai.usage.output_tokens"] == usage["completion_tokens"] == 4000
    assert [one.attributes["weft.attempt"] for one in (first, second)] == [1, 2]
    assert first.attributes["weft.instance"] != second.attributes["weft.instance"]
    # A worker whose vLLM hangs up within the first second asks again, in case that was an old connection.
    wrong = first.attributes["error.type"]
    assert wrong in ("upstream_broken", "upstream_unreachable")
    assert first.status == "error"
    assert (second.status, second.attributes["http.response.status_code"]) == ("unset", 200)
    assert "error.type" not in second.attributes
    assert first.end <= second.start

    before, after = tree.find("weft-worker")
    assert (before.status, before.attributes["error.type"]) == ("error", wrong)
    assert (before.attributes["weft.outcome"], names(before)) == (wrong, [])
    assert (after.status, after.attributes["weft.outcome"]) == ("unset", "ok")
    assert [one.resource["weft.instance"] for one in (before, after)] == [
        one.attributes["weft.instance"] for one in (first, second)
    ]
    (vllm,) = tree.find("vllm")
    assert vllm.attributes["gen_ai.usage.completion_tokens"] == 4000
