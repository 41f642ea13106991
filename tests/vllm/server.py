"""A real vLLM server as a subprocess."""

import http.client
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tests.vllm.processes import Deadline, Process, free_port

START_SECONDS = 240  # 25 to 50 s on two idle cores; far more when they are shared.
GAUGE_SECONDS = 60  # A vLLM has stood still for 21 s, and answered then.

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    # Engine and worker are one process. As two, whichever waits for the other calls sched_yield without end: two vLLMs
    # kept four processes running on two cores, and for up to 21 s one of them got no further, its HTTP server neither.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Without it the first request for logprobs waits 20 s for torch.compile.
    "TORCHDYNAMO_DISABLE": "1",
}
OPTIONS = [
    # bfloat16 dies with an illegal instruction on CPUs whose AMX is announced and not usable.
    *("--dtype", "float32"),
    # Small blocks, so that short prompts are found in the prefix cache.
    *("--block-size", "32"),
    *("--num-gpu-blocks-override", "1024"),
    *("--max-num-seqs", "32"),
    "--enforce-eager",
]
CHAT_OPTIONS = [
    *("--max-model-len", "8192"),
    "--enable-auto-tool-choice",
    *("--tool-call-parser", "hermes"),
    "--enable-prompt-tokens-details",
    "--trust-request-chat-template",
    # A model of random weights would fill its JSON with line breaks until it reaches its limit.
    *("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}'),
]
EMBED_OPTIONS = ["--runner", "pooling", "--max-model-len", "512"]


def serve_command(python: Path, model: Path, name: str, options: Sequence[str]) -> list[str]:
    """The command line of a vLLM that serves the model in folder `model` as `name`; where it listens is not in it."""
    vllm = str(python.with_name("vllm"))
    return [vllm, "serve", str(model), "--served-model-name", name, *OPTIONS, *options]


class VllmServer:
    """One vLLM server, on a port of loopback or a unix socket. `start` returns at once, `ready` waits."""

    def __init__(self, command: Sequence[str], model: str, log: Path, unix_socket: Path | None = None) -> None:
        self.model = model
        self.log = log
        self.port = free_port()
        self.url = f"unix:{unix_socket}" if unix_socket else f"http://127.0.0.1:{self.port}"
        where = ["--uds", str(unix_socket)] if unix_socket else ["--host", "127.0.0.1", "--port", str(self.port)]
        self._command = [*command, *where]
        self._unix_socket = unix_socket
        self._process: Process | None = None

    def start(self) -> None:
        self._process = Process(self._command, self.log, ENVIRONMENT)

    @property
    def process(self) -> Process:
        assert self._process is not None, "start the server first"
        return self._process

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.alive

    def ready(self) -> None:
        for _ in Deadline(START_SECONDS, f"vLLM is up ({self.log})"):
            if not self.alive:
                raise AssertionError(f"vLLM ended at start\n{self.process.tail()}")
            if answers(self.url):
                return

    def kill(self) -> None:
        self.process.kill()

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def gauge(self, name: str) -> float:
        """The value of vLLM's metric `name`, such as `vllm:num_requests_running`."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=GAUGE_SECONDS)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        found = re.search(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        assert found is not None, f"vLLM has no metric {name}"
        return float(found[1])

    @property
    def running(self) -> float:
        return self.gauge("vllm:num_requests_running") + self.gauge("vllm:num_requests_waiting")

    @property
    def generated(self) -> float:
        return self.gauge("vllm:generation_tokens_total")


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def answers(url: str) -> bool:
    """Whether the server at `url`, which may be a unix socket, says that it is well."""
    parts = urlsplit(url)
    connection = (
        UnixConnection(parts.path, 5) if parts.scheme == "unix" else http.client.HTTPConnection(parts.netloc, timeout=5)
    )
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()
