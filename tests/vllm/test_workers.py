"""Workers started by hand in vLLM's environment: attached by URL, by unix socket, and launching vLLM themselves."""

import json
import os
import shlex
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vllm.conftest import Measured
from tests.vllm.exchange import Answer, send
from tests.vllm.mesh import Mesh
from tests.vllm.processes import Deadline, children, free_port
from tests.vllm.rows import chat
from tests.vllm.rows.row import CHAT_MODEL, JSON, encode
from tests.vllm.server import ENVIRONMENT, START_SECONDS, VllmServer
from tests.vllm.worker import install_weft, start_worker

ATTACH_SECONDS = 60
# A vLLM that does not end by itself is killed after 30 s.
END_SECONDS = 60


@pytest.fixture(scope="module")
def weft_site(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_weft(vllm_python, tmp_path_factory.mktemp("weft"))


@pytest.fixture
def bare_mesh(tmp_path: Path) -> Iterator[Mesh]:
    """A mesh without a vLLM: its one worker has a simulated one, which serves another model. The endpoint that workers
    serve by default is made by hand, as an operator would.
    """
    started = Mesh(tmp_path / "home", [])
    try:
        started.ready()
        started.weft("endpoints", "create", "clusters/local/endpoints/vllm")
        yield started
    finally:
        started.stop()


def ask(mesh: Mesh, *, stream: bool = False) -> Answer:
    body = encode({**chat.BASE, "stream": stream})
    return send(mesh.url, "POST", "/v1/chat/completions", {**JSON, **mesh.authorization}, body)


def serves(mesh: Mesh, seconds: float) -> None:
    """Wait until the mesh answers, streamed and not."""
    for _ in Deadline(seconds, f"the mesh serves {CHAT_MODEL}"):
        if ask(mesh).status == 200:
            break
    assert json.loads(ask(mesh).body)["choices"][0]["message"]["content"]
    assert ask(mesh, stream=True).body.endswith(b"data: [DONE]\n\n")


def test_attached_by_url(
    vllm_python: Path, weft_site: Path, bare_mesh: Mesh, chat_server: VllmServer, tmp_path: Path, measured: Measured
) -> None:
    log = tmp_path / "worker.log"
    started = time.monotonic()
    worker = start_worker(vllm_python, weft_site, bare_mesh, log, ["--vllm-url", chat_server.url])
    try:
        serves(bare_mesh, ATTACH_SECONDS)
        measured("a worker in vLLM's environment serves", time.monotonic() - started)
        worker.signal(signal.SIGTERM)
        assert worker.wait(END_SECONDS) == 0
    finally:
        worker.stop()


def test_attached_by_unix_socket(
    vllm_python: Path, weft_site: Path, bare_mesh: Mesh, chat_command: list[str], logs: Path, tmp_path: Path
) -> None:
    server = VllmServer(chat_command, CHAT_MODEL, logs / "socket.log", tmp_path / "vllm.sock")
    server.start()
    try:
        server.ready()
        worker = start_worker(vllm_python, weft_site, bare_mesh, tmp_path / "worker.log", ["--vllm-url", server.url])
        try:
            serves(bare_mesh, ATTACH_SECONDS)
        finally:
            worker.stop()
    finally:
        server.stop()


def test_launching_vllm(
    vllm_python: Path, weft_site: Path, bare_mesh: Mesh, chat_command: list[str], tmp_path: Path, measured: Measured
) -> None:
    """The worker starts vLLM, restarts it when it dies, and takes it along when it ends."""
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
    command = shlex.join(["env", *variables, *chat_command, "--host", "127.0.0.1", "--port", port])
    options = ["--vllm-url", url, "--vllm-command", command]
    worker = start_worker(vllm_python, weft_site, bare_mesh, tmp_path / "worker.log", options)
    try:
        serves(bare_mesh, START_SECONDS)
        first = vllm_under(worker.pid)
        os.kill(first, signal.SIGKILL)
        killed = time.monotonic()
        for _ in Deadline(START_SECONDS, "the worker has started another vLLM"):
            if vllm_under(worker.pid) not in (0, first):
                break
        serves(bare_mesh, START_SECONDS)
        measured("a launched vLLM killed: restarted and serving", time.monotonic() - killed)
        last = vllm_under(worker.pid)
        worker.signal(signal.SIGTERM)
        assert worker.wait(END_SECONDS) == 0
        for _ in Deadline(END_SECONDS, "vLLM has ended with its worker"):
            if not Path(f"/proc/{last}").exists():
                break
    finally:
        worker.stop()


def vllm_under(pid: int) -> int:
    """The process id of the vLLM server that `pid` has started; 0 when there is none."""
    return min((child for child, command in children(pid).items() if "serve" in command), default=0)
