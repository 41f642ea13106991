"""The batch function with a real vLLM, killed with it in the middle of a batch; and a request by task."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vllm.conftest import Measured
from tests.vllm.processes import Deadline, Process
from tests.vllm.rows.row import CHAT_MODEL
from tests.vllm.server import ENVIRONMENT, START_SECONDS, VllmServer

FUNCTIONS = Path(__file__).parents[2] / "compute_functions"
REQUESTS = 800
"""More than are answered, at 30 a second, while whoever waits for `ENOUGH` of them and kills the batch stands still."""
ENOUGH = 100

RUNNER = """
import json, sys
source, name, request = sys.argv[1:]
namespace = {}
exec(open(source).read(), namespace)
print("RESULT", json.dumps(namespace[name](json.loads(request))), flush=True)
"""


class Task:
    """A function that runs by its text, as Globus Compute runs it, in a process of its own."""

    def __init__(self, name: str, request: dict[str, Any], log: Path, environ: dict[str, str]) -> None:
        self.log = log
        source = str(FUNCTIONS / f"{name}.py")
        self.process = Process([sys.executable, "-c", RUNNER, source, name, json.dumps(request)], log, environ)

    def result(self, seconds: float = START_SECONDS) -> dict[str, Any]:
        self.process.wait(seconds)
        last = [line for line in self.log.read_text().splitlines() if line.startswith("RESULT ")][-1]
        answer: dict[str, Any] = json.loads(last.partition(" ")[2])
        return answer


@pytest.fixture
def environ(chat_command: list[str], tmp_path: Path) -> dict[str, str]:
    """A site whose vLLM is the tiny chat model."""
    command = shlex.join([*chat_command, "--host", "127.0.0.1", "--port", "{port}"])
    return {**ENVIRONMENT, "WEFT_VLLM_COMMAND": command, "WEFT_RUN_DIR": str(tmp_path / "run")}


@pytest.fixture
def request_file(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "in.jsonl"
    lines = []
    for number in range(REQUESTS):
        body: dict[str, Any] = {"messages": [{"role": "user", "content": f"Tell me about {number}."}]}
        body |= {"max_tokens": 96, "ignore_eos": True, "temperature": -1 if number == 3 else 0}
        lines.append({"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    yield file
    for pid in vllm_of(file.parent):
        os.kill(pid, signal.SIGKILL)


def vllm_of(folder: Path) -> list[int]:
    """What runs with a WEFT_RUN_DIR in this folder."""
    listed = subprocess.run(["grep", "-alF", str(folder), *environments()], capture_output=True, text=True, check=False)
    return [int(line.split("/")[2]) for line in listed.stdout.splitlines()]


def environments() -> list[str]:
    return [str(path) for path in Path("/proc").glob("[0-9]*/environ") if path.parent.name != str(os.getpid())]


def test_a_batch_killed_in_the_middle_is_resumed_and_whole(
    environ: dict[str, str], request_file: Path, tmp_path: Path, measured: Measured
) -> None:
    out = tmp_path / "out"
    request = {"input_file": str(request_file), "output_folder": str(out), "batch": "b", "model": CHAT_MODEL}
    request["concurrency"] = 16
    task = Task("batch", request, tmp_path / "first.log", environ)
    done = out / "b.done.jsonl"
    for _ in Deadline(START_SECONDS, f"{ENOUGH} requests of the batch are done"):
        assert task.process.alive, task.process.tail()
        if done.exists() and done.read_bytes().count(b"\n") >= ENOUGH:
            break
    os.kill(task.process.pid, signal.SIGKILL)
    task.process.wait(30)
    for _ in Deadline(60, "vLLM has ended, with all that it started"):
        if not vllm_of(tmp_path):
            break
    kept = {line["out"]["id"] for line in map(json.loads, done.read_text().splitlines())}
    assert ENOUGH <= len(kept) < REQUESTS

    again = Task("batch", request, tmp_path / "second.log", environ)
    answer = again.result(2 * START_SECONDS)
    assert (answer["status"], answer["completed"], answer["failed"]) == ("completed", REQUESTS - 1, 1)
    good = [json.loads(line) for line in Path(answer["output_file"]).read_text().splitlines()]
    [bad] = [json.loads(line) for line in Path(answer["error_file"]).read_text().splitlines()]
    assert [line["custom_id"] for line in good] == [f"r{number}" for number in range(REQUESTS) if number != 3]
    assert kept <= {line["id"] for line in (*good, bad)}, "nothing was asked twice"
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("r3", 400)
    assert all(line["response"]["body"]["usage"]["completion_tokens"] == 96 for line in good)
    said = json.loads((out / "b.progress.json").read_text())
    assert said["model_loads"] == 1
    measured("the rest of a killed batch, with one model load", said["update_time"] - said["start_time"])
    assert not vllm_of(tmp_path)


def test_one_request_by_task_is_what_vllm_answers(
    chat_server: VllmServer, environ: dict[str, str], tmp_path: Path
) -> None:
    body = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5, "stream": True}
    asked = {
        "endpoint": "clusters/a/endpoints/b",
        "slot": 0,
        "operation": "/v1/chat/completions",
        "headers": [["content-type", "application/json"]],
        "api_port": chat_server.port,
        "timeout_s": 60,
    }
    streamed = Task("inference", {**asked, "body": json.dumps(body)}, tmp_path / "a.log", environ).result()
    assert streamed["status"] == 200
    assert streamed["body"].startswith("data: {")
    assert streamed["body"].endswith("data: [DONE]\n\n")
    wrong = Task("inference", {**asked, "body": '{"messages": 7}'}, tmp_path / "b.log", environ).result()
    assert wrong["status"] == 400
    assert json.loads(wrong["body"])["error"]["code"] == 400
