"""Compute functions as Globus Compute runs them: by their text, in a process of their own that may be killed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testing.processes import SOON
from tests.unit.compute_functions.listener import listening

ROOT = Path(__file__).parents[2]
ENDPOINT = "clusters/a/endpoints/b"
_LONG = 3 * SOON
"""Seconds for any function, less than pytest gives a test."""

RUNNER = """
import json, sys
source, name, request = sys.argv[1:]
namespace = {}
exec(open(source).read(), namespace)
print("running", flush=True)
print(json.dumps(namespace[name](json.loads(request))), flush=True)
"""
"""As the SDK's PureSourceTextInspect does it."""


class Task:
    """A function that runs in a process of its own."""

    def __init__(self, name: str, request: dict[str, Any], environ: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUNNER, str(ROOT / "compute_functions" / f"{name}.py"), name, json.dumps(request)],
            stdout=subprocess.PIPE,
            env={**os.environ, **environ},
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"running\n"

    def result(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        late = threading.Timer(_LONG, self.process.kill)
        late.start()
        try:
            text = self.process.stdout.read()
        finally:
            late.cancel()
        code = self.process.wait(SOON)
        assert text, f"it gave no result, and ended with {code}; after {_LONG:g} s it is killed"
        answer: dict[str, Any] = json.loads(text)
        return answer

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Site:
    """The environment of a node, and the tasks that run on it."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / "run"
        self.logs = folder / "logs"
        self.mark = f"weft-test-{folder.name}-{os.getpid()}"
        self.environ = {
            "WEFT_RUN_DIR": str(self.run_dir),
            "WEFT_LOG_DIR": str(self.logs),
            "WEFT_MARK": self.mark,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'protos/gen'}",
            "WEFT_VLLM_COMMAND": f"{sys.executable} -m services.sim --port {{port}} --model tiny --grace-s 1",
        }
        self.tasks: list[Task] = []

    def start(self, name: str, request: dict[str, Any]) -> Task:
        task = Task(name, request, self.environ)
        self.tasks.append(task)
        return task

    def run(self, name: str, request: dict[str, Any]) -> dict[str, Any]:
        return self.start(name, request).result()

    @property
    def slot(self) -> Path:
        return self.run_dir / "a.b.0"

    def processes(self) -> dict[int, str]:
        """What runs with this site's environment, however it was started and whoever its parent is now."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def clear_away(self) -> None:
        for task in self.tasks:
            task.end()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    it = Site(tmp_path)
    try:
        yield it
    finally:
        it.clear_away()


def until(what: str, so: Callable[[], Any], seconds: float = SOON) -> Any:
    """Waits until something is so, and gives it."""
    end = time.monotonic() + seconds
    while not (found := so()):
        assert time.monotonic() < end, f"still not so: {what}"
        time.sleep(0.05)
    return found


def of_start(**fields: Any) -> dict[str, Any]:
    return {
        "endpoint": ENDPOINT,
        "start": "starts/one",
        "slot": 0,
        "enrolment_token": "weft-secret-token",
        "routers": [],
        "mode": "task",
        "api_port": 0,
        "walltime_s": None,
        "grace_s": 2,
        "drain_before_s": 0,
        "attach_timeout_s": 0,
        **fields,
    }


def call(**fields: Any) -> dict[str, Any]:
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hello"}], **fields.pop("more", {})})
    return {
        "endpoint": ENDPOINT,
        "slot": 0,
        "operation": "/v1/chat/completions",
        "headers": [["content-type", "application/json"]],
        "body": body,
        "timeout_s": 30,
        "wait_s": 30,
        **fields,
    }


def control(site: Site, what: str, start: str = "") -> dict[str, Any]:
    return site.run("inference", {"endpoint": ENDPOINT, "slot": 0, "control": what, "start": start})


def has_slot(site: Site, start: str) -> bool:
    file = site.slot / "server.json"
    with contextlib.suppress(FileNotFoundError):
        return bool(json.loads(file.read_text())["start"] == start)
    return False


def test_task_mode_from_start_to_stop(site: Site) -> None:
    task = site.start("start_worker", of_start())
    answer = site.run("inference", call())
    assert answer["status"] == 200
    assert json.loads(answer["body"])["choices"]
    streamed = site.run("inference", call(more={"stream": True}))
    assert streamed["body"].endswith("data: [DONE]\n\n")
    assert site.run("inference", call(more={"max_tokens": -1}))["status"] == 400
    until("it is ready", lambda: control(site, "state")["state"] == "ready")
    server = json.loads((site.slot / "server.json").read_text())
    assert stat.S_IMODE((site.slot / "server.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(site.slot.stat().st_mode) == 0o700
    assert (server["start"], server["state"]) == ("starts/one", "ready")

    assert control(site, "stop", "starts/other") == {"stopped": False}
    assert control(site, "stop", "starts/one") == {"stopped": True}
    result = task.result()
    assert (result["outcome"], result["detail"]) == ("stopped", "It was asked to stop.")
    assert result["job"]["end_time"] is None
    assert not site.processes()
    assert not (site.slot / "server.json").exists()
    assert control(site, "state")["state"] == "none"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_stays_behind_when_the_tasks_process_is_killed(site: Site, number: signal.Signals) -> None:
    # A vLLM that starts others, of which one leaves its process group and takes no notice of SIGTERM.
    site.environ["WEFT_VLLM_COMMAND"] = (
        f"""sh -c 'trap "" TERM; setsid -f sleep 1000; exec {site.environ["WEFT_VLLM_COMMAND"]}'"""
    )
    task = site.start("start_worker", of_start())
    until("it is ready", lambda: control(site, "state")["state"] == "ready")
    assert any("sleep 1000" in command for command in site.processes().values())
    task.process.send_signal(number)
    task.process.wait(SOON)
    assert task.process.returncode == -number, "it ends as it was told"
    until("nothing is left", lambda: not site.processes())
    assert [file.name for file in site.slot.iterdir()] == ["lock"], "what the task cannot remove, its keeper does"
    again = site.start("start_worker", of_start(start="starts/two"))
    until("the slot is free again", lambda: control(site, "state")["state"] == "ready")
    control(site, "stop")
    assert again.result()["outcome"] == "stopped"


def test_a_slot_is_not_taken_before_all_of_its_last_start_has_ended(site: Site) -> None:
    command = site.environ["WEFT_VLLM_COMMAND"]
    # A vLLM that takes two seconds to give its GPUs back.
    site.environ["WEFT_VLLM_COMMAND"] = f"""sh -c 'trap "sleep 2; exit 0" TERM; {command} & while :; do wait; done'"""
    first = site.start("start_worker", of_start(grace_s=10))
    until("it is ready", lambda: control(site, "state")["state"] == "ready")
    before = {pid for pid, command in site.processes().items() if "services.sim" in command}
    first.process.kill()
    site.environ["WEFT_VLLM_COMMAND"] = command
    first.process.wait()
    second = site.start("start_worker", of_start(start="starts/two"))
    until("the next is there", lambda: has_slot(site, "starts/two"))
    assert not before & set(site.processes()), "two models would have been loaded on the same GPUs"
    control(site, "stop")
    assert second.result()["outcome"] == "stopped"


def test_nothing_stays_behind_when_the_keeper_is_killed(site: Site) -> None:
    task = site.start("start_worker", of_start())
    until("it is ready", lambda: control(site, "state")["state"] == "ready")
    os.kill(json.loads((site.slot / "server.json").read_text())["pid"], signal.SIGKILL)
    result = task.result()
    assert (result["outcome"], result["detail"]) == ("vllm_failed", "vLLM ended by itself, with signal 9.")
    until("nothing is left", lambda: not site.processes())


def test_the_log_of_a_vllm_that_has_served_stays_on_the_node(site: Site) -> None:
    task = site.start("start_worker", of_start())
    until("it is ready", lambda: control(site, "state")["state"] == "ready")
    [log] = site.logs.iterdir()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    with log.open("a") as opened:
        opened.write("Received request cmpl-1: prompt: 'something private'\n")
    control(site, "stop")
    assert task.result()["log_tail"] == []


def test_a_task_that_is_delivered_twice_leaves_the_first_alone(site: Site) -> None:
    task = site.start("start_worker", of_start())
    until("it is ready", lambda: control(site, "state")["state"] == "ready")
    before = site.processes()
    again = site.run("start_worker", of_start())
    assert again["outcome"] == "refused"
    assert "runs here already" in again["detail"]
    assert again["log_tail"] == [], "the log is the first one's"
    other = site.run("start_worker", of_start(start="starts/two"))
    assert other["outcome"] == "refused"
    assert site.processes() == before
    assert site.run("inference", call())["status"] == 200
    control(site, "stop")
    assert task.result()["outcome"] == "stopped"


def test_a_vllm_that_ends_by_itself_is_told_with_the_end_of_its_log(site: Site) -> None:
    site.environ["WEFT_VLLM_COMMAND"] = "sh -c 'echo no GPU found, --api-key sk-12345678 >&2; exit 7' {port}"
    result = site.run("start_worker", of_start())
    assert (result["outcome"], result["detail"]) == ("vllm_failed", "vLLM ended by itself, with exit code 7.")
    assert result["log_tail"] == ["no GPU found, --api-key [redacted]"]


def test_a_command_that_does_not_exist_is_told(site: Site) -> None:
    site.environ["WEFT_VLLM_COMMAND"] = "no-such-vllm {port}"
    result = site.run("start_worker", of_start())
    assert result["outcome"] == "vllm_failed"
    assert "Cannot run no-such-vllm: No such file or directory." in result["log_tail"]


def test_task_mode_ends_before_the_walltime_does(site: Site) -> None:
    site.environ["WEFT_WALLTIME_S"] = "60"
    before = time.time()
    result = site.run("start_worker", of_start(drain_before_s=59))
    assert result["outcome"] == "walltime"
    after = time.time()
    assert before + 60 <= result["job"]["end_time"] <= after + 60
    assert before + 1 <= after < result["job"]["end_time"]
    assert not site.processes()


# With a worker: a stand-in for `weft worker` that writes down what it was given

WORKER = """#!{python}
import json, os, signal, sys, time
arguments = sys.argv[1:]
token = arguments[arguments.index("--enrolment-token-file") + 1]
print("worker", open(token).read(), flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
# Last: whoever sees it goes on.
json.dump(dict(arguments=arguments, token=open(token).read(), mode=os.stat(token).st_mode & 0o777), open({out!r}, "w"))
if {code!r} is None:
    time.sleep(1000)
sys.exit({code!r})
"""


def with_worker(site: Site, folder: Path, code: int | None) -> Path:
    program, out = folder / "weft-stand-in", folder / "given.json"
    program.write_text(WORKER.format(python=sys.executable, out=str(out), code=code))
    program.chmod(0o755)
    site.environ["WEFT_WORKER_PROGRAM"] = str(program)
    site.environ["WEFT_WORKER_FLAGS"] = "--max-calls 7 --proxy none"
    return out


def test_a_session_gives_the_worker_what_it_needs_and_no_secret_in_its_arguments(site: Site, tmp_path: Path) -> None:
    out = with_worker(site, tmp_path, None)
    with listening(b"") as router:
        address = f"127.0.0.1:{router.port}"
        asked = of_start(
            mode="session", routers=["127.0.0.1:9", address], walltime_s=3600, drain_before_s=60, attach_timeout_s=90
        )
        task = site.start("start_worker", asked)
        until("the worker runs", lambda: out.exists() and out.read_text().endswith("}"))
    given = json.loads(out.read_text())
    assert (given["token"], given["mode"]) == ("weft-secret-token", 0o600)
    arguments = given["arguments"]
    assert arguments[:3] == ["worker", "--endpoint", ENDPOINT]
    assert "weft-secret-token" not in arguments
    options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    assert [value for name, value in itertools.pairwise(arguments) if name == "--router"] == [
        "127.0.0.1:9",
        address,
    ]
    assert (options["--drain-before"], options["--attach-timeout"], options["--grace"]) == ("60", "90", "2")
    assert abs(float(options["--job-end"]) - time.time() - 3600) < 60
    port = options["--vllm-url"].rpartition(":")[2]
    assert f"--port {port} " in options["--vllm-command"]
    assert options["--max-calls"] == "7"

    control(site, "stop", "starts/one")
    result = task.result()
    assert (result["outcome"], result["detail"]) == ("stopped", "It was asked to stop.")
    assert result["log_tail"] == ["worker [redacted]"]
    assert not (site.slot / "token").exists()
    assert not site.processes()


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (0, "stopped"),
        (1, "site_error"),
        (3, "refused"),
        (4, "router_unreachable"),
        (5, "vllm_failed"),
        (9, "site_error"),
    ],
)
def test_what_the_workers_exit_codes_mean(site: Site, tmp_path: Path, code: int, outcome: str) -> None:
    with_worker(site, tmp_path, code)
    with listening(b"") as router:
        asked = of_start(mode="session", routers=[f"127.0.0.1:{router.port}"])
        assert site.run("start_worker", asked)["outcome"] == outcome


def test_no_worker_is_started_where_no_router_can_be_reached(site: Site, tmp_path: Path) -> None:
    out = with_worker(site, tmp_path, None)
    result = site.run("start_worker", of_start(mode="session", routers=["127.0.0.1:9"]))
    assert result["outcome"] == "router_unreachable"
    assert "127.0.0.1:9: Connection refused." in result["detail"]
    assert not out.exists()


def test_weft_worker_itself_takes_what_it_is_given(site: Site) -> None:
    """The real program, with a router that hangs up: it says so by the exit code that stands for that."""
    site.environ["WEFT_WORKER_PROGRAM"] = f"{sys.executable} -m services.cli"
    with listening(b"") as router:
        asked = of_start(
            mode="session", routers=[f"127.0.0.1:{router.port}"], walltime_s=3600, drain_before_s=60, attach_timeout_s=3
        )
        result = site.run("start_worker", asked)
    assert result["outcome"] == "router_unreachable", result
    assert "The worker ended with exit code 4." in result["detail"]
    assert not site.processes()


# Batches

FRAGILE = """
import http.server, json, os, sys
seen = []
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self): self.answer(200, {})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "poison" in body["prompt"]:
            os._exit(9)
        if "stopped" in body["prompt"] and not seen:
            seen.append(body["prompt"])
            return self.answer(200, {"choices": [{"text": "half an", "finish_reason": "abort"}]})
        self.answer(400 if body["prompt"] == "bad" else 200, {"id": "cmpl-" + body["prompt"], "model": body["model"]})
    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
"""A model server that dies of certain requests."""


def batch_of(folder: Path, prompts: list[str], tokens: dict[int, int] | None = None, **fields: Any) -> dict[str, Any]:
    """`tokens` has the most tokens of some answers, by the number of their request."""
    lines = [
        {
            "custom_id": f"r{number}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"prompt": prompt, **({"max_tokens": tokens[number]} if tokens and number in tokens else {})},
        }
        for number, prompt in enumerate(prompts)
    ]
    (folder / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    named = {"input_file": str(folder / "in.jsonl"), "output_folder": str(folder / "out"), "batch": "b"}
    return {**named, "model": "tiny", "resume": True, **fields}


def results(file: str) -> list[dict[str, Any]]:
    path = Path(file)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def progress(folder: Path) -> dict[str, Any]:
    file = folder / "out" / "b.progress.json"
    said: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return said


def done_lines(folder: Path) -> int:
    file = folder / "out" / "b.done.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.fixture
def slow_model(site: Site) -> None:
    """Twenty tokens a second, and four an answer unless it is asked for more."""
    site.environ["WEFT_VLLM_COMMAND"] += " --inter-token-s 0.05 --max-tokens 4"


def hurry(site: Site) -> None:
    """From its next start on, the model takes no time for a token."""
    site.environ["WEFT_VLLM_COMMAND"] += " --inter-token-s 0"


def long_after(first: int, total: int, tokens: int = 1000) -> dict[int, int]:
    """So many short answers, then long ones, of 50 s: once the first are done, a test has the time that it needs."""
    return dict.fromkeys(range(first, total), tokens)


def test_an_answer_that_a_stopped_vllm_broke_off_is_not_kept_for_a_whole_one(site: Site, tmp_path: Path) -> None:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    site.environ["WEFT_VLLM_COMMAND"] = f"{sys.executable} {tmp_path / 'fragile.py'} {{port}}"
    answer = site.run("batch", batch_of(tmp_path, ["p0", "stopped"]))
    assert (answer["status"], answer["completed"]) == ("completed", 2)
    bodies = [line["response"]["body"] for line in results(answer["output_file"])]
    assert [body.get("id") for body in bodies] == ["cmpl-p0", "cmpl-stopped"]


def test_a_batch_in_openais_format_and_in_the_order_of_its_input(site: Site, tmp_path: Path) -> None:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    site.environ["WEFT_VLLM_COMMAND"] = f"{sys.executable} {tmp_path / 'fragile.py'} {{port}}"
    prompts = [f"p{number}" for number in range(50)]
    prompts[7] = "bad"
    answer = site.run("batch", batch_of(tmp_path, prompts))
    assert (answer["status"], answer["completed"], answer["failed"], answer["total"]) == ("completed", 49, 1, 50)
    good = results(answer["output_file"])
    assert [line["custom_id"] for line in good] == [f"r{number}" for number in range(50) if number != 7]
    assert good[0]["response"] == {
        "status_code": 200,
        "request_id": "cmpl-p0",
        "body": {"id": "cmpl-p0", "model": "tiny"},
    }
    assert good[0]["error"] is None
    [bad] = results(answer["error_file"])
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("r7", 400)
    assert progress(tmp_path)["model_loads"] == 1
    assert not site.processes()

    again = site.run("batch", batch_of(tmp_path, prompts))
    assert (again["status"], again["completed"], again["detail"]) == ("completed", 49, "It was completed before.")


@pytest.mark.usefixtures("slow_model")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_batch_that_is_killed_goes_on_where_it_was(site: Site, tmp_path: Path, number: signal.Signals) -> None:
    request = batch_of(tmp_path, [f"p{number}" for number in range(60)], long_after(8, 60), concurrency=4)
    task = site.start("batch", request)
    kept = until("some are done", lambda: done_lines(tmp_path) >= 8 and done_lines(tmp_path))
    again = site.run("batch", request)
    assert (again["status"], again["total"]) == ("running", 60), "it runs, and is left alone"
    task.process.send_signal(number)
    assert task.process.wait(SOON) == -number
    before = {line["out"]["id"] for line in map(json.loads, (tmp_path / "out/b.done.jsonl").read_text().splitlines())}
    assert kept <= len(before) < 60

    hurry(site)
    answer = site.run("batch", request)
    assert (answer["status"], answer["completed"], answer["failed"]) == ("completed", 60, 0)
    good = results(answer["output_file"])
    assert [line["custom_id"] for line in good] == [f"r{number}" for number in range(60)]
    assert before < {line["id"] for line in good}, "what was done was not done again"
    assert not site.processes()


@pytest.mark.usefixtures("slow_model")
def test_a_batch_on_a_full_disk_tells_and_goes_on_when_there_is_room(site: Site, tmp_path: Path) -> None:
    # The long ones take 5 s, in which the disk becomes full.
    request = batch_of(tmp_path, [f"p{number}" for number in range(60)], long_after(8, 60, 100), concurrency=4)
    task = site.start("batch", request)
    until("some are done", lambda: done_lines(tmp_path) >= 8)
    room = (tmp_path / "out" / "b.done.jsonl").stat().st_size + 1000
    resource.prlimit(task.process.pid, resource.RLIMIT_FSIZE, (room, room))
    answer = task.result()
    assert (answer["status"], answer["total"]) == ("failed", 60)
    assert "File too large" in answer["detail"]
    assert 8 <= answer["completed"] == progress(tmp_path)["completed"] < 60
    assert progress(tmp_path)["status"] == "failed"
    assert not site.processes()

    hurry(site)
    answer = site.run("batch", request)
    assert (answer["status"], answer["completed"], answer["failed"]) == ("completed", 60, 0)
    assert [line["custom_id"] for line in results(answer["output_file"])] == [f"r{number}" for number in range(60)]
    assert not list((tmp_path / "out").glob("*.partial"))


@pytest.mark.usefixtures("slow_model")
def test_a_batch_is_cancelled_with_what_it_has(site: Site, tmp_path: Path) -> None:
    request = batch_of(tmp_path, [f"p{number}" for number in range(200)], long_after(4, 200), concurrency=4)
    task = site.start("batch", request)
    until("some are done", lambda: done_lines(tmp_path) >= 4)
    assert site.run("batch", {**request, "cancel": True})["status"] == "cancelling"
    answer = task.result()
    assert answer["status"] == "cancelled"
    assert 4 <= len(results(answer["output_file"])) == answer["completed"] < 200
    assert not site.processes()


@pytest.mark.usefixtures("slow_model")
def test_a_batch_stops_before_its_job_does(site: Site, tmp_path: Path) -> None:
    request = batch_of(tmp_path, [f"p{number}" for number in range(500)], concurrency=2)
    answer = site.run("batch", {**request, "end_time": time.time() + 33, "drain_before_s": 30})
    assert answer["status"] == "interrupted"
    assert answer["failed"] == 0
    assert done_lines(tmp_path) == answer["completed"] < 500


def test_a_request_that_kills_vllm_is_found_and_the_others_are_answered(site: Site, tmp_path: Path) -> None:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    site.environ["WEFT_VLLM_COMMAND"] = f"{sys.executable} {tmp_path / 'fragile.py'} {{port}}"
    prompts = [f"p{number}" for number in range(30)]
    prompts[11] = "poison"
    answer = site.run("batch", batch_of(tmp_path, prompts, concurrency=4))
    assert (answer["status"], answer["completed"], answer["failed"]) == ("completed", 29, 1)
    [bad] = results(answer["error_file"])
    assert (bad["custom_id"], bad["error"]["code"]) == ("r11", "vllm_crashed")
    assert progress(tmp_path)["model_loads"] == 3, "once more to find it, once more without it"


def test_a_vllm_that_never_comes_up_is_tried_so_often_and_no_more(site: Site, tmp_path: Path) -> None:
    site.environ["WEFT_VLLM_COMMAND"] = "sh -c 'echo no GPU >&2; exit 1' {port}"
    answer = site.run("batch", batch_of(tmp_path, ["a"], vllm_restarts=1))
    assert answer["status"] == "failed"
    assert "vLLM ended 2 times by itself" in answer["detail"]
    assert "no GPU" in answer["detail"]
