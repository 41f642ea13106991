"""Starts a worker and its vLLM on this node, and stays until they have ended; sent as the text of this file.

Globus Compute kills the process of a task with a second's notice, or with none. So what is started here is held by a
*keeper*, a small process of its own that sees the task's process go, ends what it holds in good order, and leaves
nothing behind: not vLLM, not a process that vLLM started.
"""

from __future__ import annotations

import argparse
import base64
import calendar
import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import pwd
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.2
REACH_SECONDS = 8.0
COMMAND_SECONDS = 20.0
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian
    "/etc/pki/tls/certs/ca-bundle.crt",  # Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
)
STOP_SECONDS = 20.0
"""What a worker has on top of its grace to end itself and its vLLM."""
KILL_SECONDS = 15.0
"""What the keeper has, on top of that, to find and kill what is left."""
VLLM_RESTARTS = 3
"""A vLLM that fails so often in a row holds its GPUs for nothing; the site may say otherwise by its flags."""
TAIL_LINES = 40
LINE_LENGTH = 500

EXIT_CODES = {0: "stopped", 3: "refused", 4: "router_unreachable", 5: "vllm_failed"}
"""What the exit codes of `weft worker` mean."""

SECRETS = (
    r"((?:api[_-]?key|token|secret|password|authorization)[\"']?\s*[=:]\s*[\"'\[(]*(?:(?:bearer|basic)\s+)?)"
    r"[^\s\"',;&\])]{6,}",
    r"((?:--[\w-]*(?:key|token|secret|password)[\"',]*|\bbearer)\s+[\"']?)[^\s\"',;&]{6,}",
    r"(\b)(?-i:hf_|sk-|weft_)[A-Za-z0-9_-]{8,}",
    r"(\w+://)[^\s/@:]+:[^\s/@]+(?=@)",
)
"""What looks like a credential in a log, after what stays."""

KEEPER = r"""
import ctypes, os, select, signal, subprocess, sys, time
grace, count = float(sys.argv[1]), int(sys.argv[2])
swept, command = sys.argv[3:3 + count], sys.argv[3 + count:]
told = []
read, write = os.pipe()
os.set_blocking(write, False)
signal.set_wakeup_fd(write)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda *_: told.append(1))
signal.signal(signal.SIGCHLD, lambda *_: None)
libc = ctypes.CDLL(None) if sys.platform == "linux" else None
if libc:
    libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what loses its parent becomes ours

def tie():
    if libc:
        libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, for the case that the keeper itself is killed

try:
    # The object is kept: it would take the exit code with it.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=tie)
except OSError as why:
    sys.exit("Cannot run %s: %s." % (command[0], why.strerror))
leader, code = process.pid, None

def reap():
    global code
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if pid == leader:
                code = os.waitstatus_to_exitcode(status)
    except ChildProcessError:
        code = 1 if code is None else code

def wait(seconds, inputs):
    until = None if seconds is None else time.monotonic() + seconds
    reap()
    while code is None and not (told and inputs):
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            return
        ready = select.select(inputs + [read], [], [], left)[0]
        if read in ready:
            os.read(read, 4096)
        reap()
        if 0 in ready and not os.read(0, 1):
            return

def descendants():
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/stat" % name) as stat:
                    parents[int(name)] = int(stat.read().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                pass
    found = {os.getpid()}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found - {os.getpid()}
        found |= more

def kill(pid, number=signal.SIGKILL, group=False):
    try:
        (os.killpg if group else os.kill)(pid, number)
    except (ProcessLookupError, PermissionError):
        pass

wait(None, [0])
if code is None:
    kill(leader, signal.SIGTERM)
    wait(grace, [])
kill(leader, group=True)
until = time.monotonic() + 10
while libc and time.monotonic() < until:
    left = descendants()
    if not left:
        break
    for pid in left:
        kill(pid)
    reap()
    time.sleep(0.02)
wait(1, [])
for file in swept:
    try:
        os.unlink(file)
    except OSError:
        pass
sys.exit(code if code is not None and code >= 0 else 128 - (code or -9))
"""


class Ended(Exception):  # noqa: N818 - an end, often a good one
    """The start is over, with an outcome of the contract and a sentence."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome


def start_worker(request: dict[str, Any]) -> dict[str, Any]:
    """Runs a worker (`mode` `session`) or vLLM alone (`task`) until it ends or is told to.

    `request`: `endpoint`, `start`, `slot`, `enrolment_token`, `routers`, `mode`, `api_port` (0: any), `walltime_s`
    (None: that of the job, if it has one), `grace_s`, `drain_before_s`, `attach_timeout_s`, `traceparent` (the start's
    span, as W3C writes it, for the worker; empty: it belongs to no trace). What the site decides comes from its
    environment: see compute_functions/README.md. Gives `outcome` (`stopped`, `refused`, `router_unreachable`,
    `vllm_failed`, `walltime`, `site_error`), `detail`, `job`, `versions` and `log_tail`. It raises nothing.
    """
    began = time.time()
    job: dict[str, Any] = {"id": "", "host": socket.gethostname(), "account": _account(), "end_time": None}
    start: Start | None = None
    try:
        start = Start(request)
        job = job_of_this_process(began, start.walltime)
        detail = f"The start {start.name!r} has ended."
        outcome = "stopped"
        start.run(job)
    except Ended as why:
        outcome, detail = why.outcome, str(why)
    except OSError as why:
        outcome, detail = "site_error", f"{why.filename or 'The node'}: {why.strerror or why}."
    except (TypeError, ValueError) as why:
        outcome, detail = "site_error", f"The request cannot be read: {why}."
    secrets = [str(request.get("enrolment_token") or "")]
    return {
        "outcome": outcome,
        "detail": redacted(detail, secrets),
        "job": job,
        "versions": {"python": platform.python_version(), "weft": _weft_version()},
        "log_tail": [redacted(line, secrets) for file in (start.logs if start else []) for line in tail(file)],
    }


class Start:
    """What is to be started, from the request and from the site's settings. Raises `Ended` if these do not do."""

    def __init__(self, request: dict[str, Any]) -> None:
        environ = os.environ
        self.endpoint, self.name = str(request.get("endpoint") or ""), str(request.get("start") or "")
        self.slot = int(request.get("slot") or 0)
        self.key = _slot_name(self.endpoint, self.slot)
        self.token = str(request.get("enrolment_token") or "")
        self.routers = [str(router) for router in request.get("routers") or []]
        self.mode = str(request.get("mode") or "session")
        self.api_port = int(request.get("api_port") or 0)
        self.grace = float(request.get("grace_s") or 30.0)
        self.drain_before = float(request.get("drain_before_s") or 0.0)
        self.attach_timeout = float(request.get("attach_timeout_s") or 0.0)
        self.traceparent = str(request.get("traceparent") or "")
        asked = request.get("walltime_s") or environ.get("WEFT_WALLTIME_S")
        problems = []
        try:
            self.walltime = float(asked) if asked else None
        except ValueError:
            problems.append(f"WEFT_WALLTIME_S must be a number of seconds; it is {asked!r}.")
        self.vllm = _words_of("WEFT_VLLM_COMMAND", problems)
        self.flags = _words_of("WEFT_WORKER_FLAGS", problems)
        self.program = _words_of("WEFT_WORKER_PROGRAM", problems) or ["weft"]
        given = _site_flags(self.flags)
        self.ca, self.proxy, self.vllm_url = given.router_ca, given.proxy, str(given.vllm_url or "")
        launches = bool(self.vllm) or (self.mode == "session" and bool(self.vllm_url or given.vllm_command))
        if not launches and not problems:
            problems.append(
                "WEFT_VLLM_COMMAND is not set: export it in the endpoint's worker_init, such as "
                "'vllm serve MODEL --host 127.0.0.1 --port {port}'."
            )
        if self.vllm and not self.vllm_url and not self.api_port and not any("{port}" in word for word in self.vllm):
            problems.append("WEFT_VLLM_COMMAND must contain {port}, because the endpoint has no api_port.")
        if self.mode == "session":
            if shutil.which(self.program[0]) is None:
                problems.append(
                    f"The worker's program {self.program[0]!r} is not on PATH: install weft where the endpoint's tasks "
                    f"run ({sys.executable}), or say where it is by WEFT_WORKER_PROGRAM in worker_init."
                )
            if not self.token or not self.routers:
                problems.append("A session needs 'enrolment_token' and 'routers' in the request.")
        elif self.mode != "task":
            problems.append(f"There is no mode {self.mode!r}: use 'session' or 'task'.")
        log_folder = Path(environ.get("WEFT_LOG_DIR") or _run_folder() / "logs")
        self.worker_log, self.vllm_log = log_folder / f"{self.key}.worker.log", log_folder / f"{self.key}.vllm.log"
        self.logs: list[Path] = []
        """Those of this start that may be told; none before it has the slot, where another one's are."""
        if problems:
            raise Ended("site_error", " ".join(problems))

    def run(self, job: dict[str, Any]) -> None:
        """Starts it, waits for its end, and clears up. Raises `Ended` with how it went."""
        if self.mode == "session":
            self._reach_a_router()
        folder = private_folder(_run_folder() / self.key)
        with locked(folder, self.name, self.grace + STOP_SECONDS + KILL_SECONDS) as lock, told_to_end() as told:
            passing = tuple(folder / name for name in ("token", "server.json", "stop"))
            for stale in passing:
                stale.unlink(missing_ok=True)
            for file in [self.worker_log, self.vllm_log] if self.mode == "session" else [self.vllm_log]:
                begin_log(file)
                self.logs.append(file)
            port = self.api_port or free_port()
            url = self.vllm_url or f"http://127.0.0.1:{port}"
            if self.mode == "session":
                write_private(folder / "token", self.token)
                command, log = self._worker_command(folder / "token", url, job), self.worker_log
            else:
                command, log = [word.replace("{port}", str(port)) for word in untraced(self.vllm)], self.vllm_log
            keeper = Keeper(command, log, self.grace + STOP_SECONDS, lock, passing)
            try:
                server = {
                    "url": url,
                    "start": self.name,
                    "pid": keeper.pid,
                    "task_pid": os.getpid(),
                    "state": "starting",
                    "endpoint": self.endpoint,
                    "slot": self.slot,
                    "tag": os.environ.get("WEFT_JOB", ""),
                }
                Watch(self, folder, keeper, server, job["end_time"], told).until_over()
            finally:
                keeper.stop()
                for file in passing:
                    file.unlink(missing_ok=True)

    def _worker_command(self, token_file: Path, url: str, job: dict[str, Any]) -> list[str]:
        command = [*self.program, "worker", "--endpoint", self.endpoint, "--enrolment-token-file", str(token_file)]
        for router in self.routers:
            command += ["--router", router]
        command += ["--grace", f"{self.grace:g}", "--vllm-url", url, "--vllm-log", str(self.vllm_log)]
        if self.vllm:
            port = str(urllib.parse.urlsplit(url).port or "")
            command += ["--vllm-command", shlex.join(word.replace("{port}", port) for word in self.vllm)]
        if job["id"]:
            command += ["--job-id", str(job["id"])]
        if job["end_time"]:
            command += ["--job-end", f"{job['end_time']:.0f}"]
        if self.drain_before:
            command += ["--drain-before", f"{self.drain_before:g}"]
        if self.attach_timeout:
            command += ["--attach-timeout", f"{self.attach_timeout:g}"]
        command += ["--vllm-restarts", str(VLLM_RESTARTS)]
        command += self.flags  # last, so that the site has the last word
        return ["env", f"TRACEPARENT={self.traceparent}", *command] if self.traceparent else command

    def _reach_a_router(self) -> None:
        """Before a model is loaded for minutes on GPUs that nobody would reach."""
        found = reach(self.routers, self.proxy, self.ca)
        if not any(reachable for reachable, _ in found.values()):
            why = " ".join(f"{router}: {detail}" for router, (_, detail) in found.items())
            raise Ended("router_unreachable", f"No router can be reached from {socket.gethostname()}. {why}")


class Watch:
    """Looks after what was started until it is over."""

    def __init__(
        self,
        start: Start,
        folder: Path,
        keeper: Keeper,
        server: dict[str, Any],
        end_time: float | None,
        told: threading.Event,
    ) -> None:
        self._start, self._folder, self._keeper, self._server, self._told = start, folder, keeper, server, told
        self._last_call = end_time - start.drain_before if end_time else None
        self._write_state("starting")

    def until_over(self) -> None:
        """Raises `Ended`, always."""
        asked = 0.0
        while True:
            code = self._keeper.wait(POLL_SECONDS)
            if code is not None:
                raise self._ended(code)
            if self._told.is_set():
                self._finish("stopped", "The task was told to end.")
            if self._stop_asked():
                self._finish("stopped", "It was asked to stop.")
            task = self._start.mode == "task"
            if task and self._last_call is not None and time.time() >= self._last_call:
                self._finish("walltime", "The job's time is over.")
            if self._server["state"] == "starting" and time.monotonic() - asked >= 1.0:
                asked = time.monotonic()
                if get(self._server["url"], "/health") is not None:
                    self._write_state("ready")
                    self._keep_vllms_log_here()

    def _stop_asked(self) -> bool:
        with contextlib.suppress(OSError):
            return (self._folder / "stop").read_text().strip() in ("", self._start.name)
        return False

    def _finish(self, outcome: str, detail: str) -> None:
        """Ends it in good order: a worker drains by itself; for vLLM alone we wait until its calls are done."""
        was_ready = self._server["state"] == "ready"
        self._keep_vllms_log_here()
        self._write_state("stopping")
        until = time.monotonic() + (self._start.grace if self._start.mode == "task" and was_ready else 0.0)
        while time.monotonic() < until and not self._told.is_set() and _calls_at(self._server["url"]):
            if self._keeper.wait(POLL_SECONDS) is not None:
                break
        self._keeper.stop()
        raise Ended(outcome, detail)

    def _ended(self, code: int) -> Ended:
        if self._start.mode == "task":
            return Ended("vllm_failed", f"vLLM ended by itself, with {_exit_words(code)}.")
        outcome = EXIT_CODES.get(code, "site_error")
        if outcome == "stopped":
            self._keep_vllms_log_here()
            at_end = self._last_call is not None and time.time() >= self._last_call - 5.0
            return (
                Ended("walltime", "The job's time is over.") if at_end else Ended("stopped", "The worker has drained.")
            )
        last = next((line for line in reversed(tail(self._start.worker_log)) if line.strip()), "")
        return Ended(outcome, f"The worker ended with {_exit_words(code)}. {last}".strip())

    def _keep_vllms_log_here(self) -> None:
        """It may hold what vLLM was asked: only of one that never came to serve is the end of it told."""
        self._start.logs = [log for log in self._start.logs if log != self._start.vllm_log]

    def _write_state(self, state: str) -> None:
        self._server["state"] = state
        write_private(self._folder / "server.json", json.dumps(self._server))


class Keeper:
    """A command, held by a keeper: see the top of this file. The lock stays taken as long as the keeper lives, and what
    is to be swept is removed at its end.
    """

    def __init__(self, command: list[str], log: Path, grace: float, lock: int, swept: tuple[Path, ...] = ()) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", KEEPER, str(grace), str(len(swept)), *map(str, swept), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(lock,),
            )
        self.pid = self._process.pid
        self._grace = grace

    def wait(self, seconds: float) -> int | None:
        """Its exit code, which is the command's; None while it runs on after `seconds`."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Ends the command in good order, and with it all that it started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(self._grace + KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class told_to_end:  # noqa: N801 - used as a context manager, as those of contextlib
    """Sets an event when this process is told to end; when all is cleared up, the process ends as it was told."""

    def __enter__(self) -> threading.Event:
        self._told = threading.Event()
        self._number = 0
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._take)
        return self._told

    def _take(self, number: int, frame: Any) -> None:
        self._number = number
        self._told.set()

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if self._number:
            os.kill(os.getpid(), self._number)


# The slot's folder


def _run_folder() -> Path:
    named = os.environ.get("WEFT_RUN_DIR")
    return Path(named) if named else Path(os.environ.get("TMPDIR") or "/tmp") / f"weft-{os.getuid()}"  # noqa: S108


def _slot_name(endpoint: str, slot: int) -> str:
    part = r"([a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?)"
    named = re.fullmatch(f"clusters/{part}/endpoints/{part}", endpoint)
    if named is None or slot < 0:
        raise Ended("site_error", f"There is no endpoint {endpoint[:200]!r} with a slot {slot}.")
    return f"{named[1]}.{named[2]}.{slot}"


def private_folder(folder: Path) -> Path:
    """A folder, and the one above, that belong to this account alone. Raises `Ended` if somebody else made them."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for each in (folder.parent, folder):
        with contextlib.suppress(FileExistsError):
            each.mkdir(mode=0o700)
        status = each.lstat()
        if status.st_uid != os.getuid() or not each.is_dir() or each.is_symlink():
            raise Ended("site_error", f"{each} belongs to somebody else: set WEFT_RUN_DIR to a folder of your own.")
        if status.st_mode & 0o077:
            each.chmod(0o700)
    return folder


def write_private(file: Path, text: str) -> None:
    """Writes a file whole, that this account alone can read."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(text)
    partial.replace(file)


@contextlib.contextmanager
def locked(folder: Path, start: str, patience: float) -> Any:
    """Takes the slot, after a start that ends has ended. Raises `Ended` if another start has it, or the same one by a
    task that was delivered twice.
    """
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                _refuse_if_running(folder, start)
                if time.monotonic() > until:
                    raise Ended("refused", f"The start before it has not ended within {patience:g} s.") from None
                time.sleep(POLL_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


def _refuse_if_running(folder: Path, start: str) -> None:
    """A start that is being stopped is waited for; one that runs is left alone."""
    try:
        server = json.loads((folder / "server.json").read_bytes())
        os.kill(int(server["task_pid"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        return  # It begins; or its task is gone, and its keeper ends what it left.
    if server.get("start") == start:
        raise Ended("refused", f"The start {start!r} runs here already; this is its task once more.")
    if server.get("state") != "stopping":
        raise Ended("refused", f"The start {server.get('start')!r} has this slot.")


# vLLM


def free_port() -> int:
    """A port of loopback that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str, path: str) -> str | None:
    """What vLLM answers to a GET with status 200; None otherwise."""
    parts = urllib.parse.urlsplit(url)
    connection = socket.socket(socket.AF_UNIX if parts.scheme == "unix" else socket.AF_INET)
    with connection:
        connection.settimeout(5.0)
        try:
            connection.connect(parts.path if parts.scheme == "unix" else (parts.hostname, parts.port or 80))
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            answer = b""
            while len(answer) < 2**22:
                chunk = connection.recv(65536)
                if not chunk:
                    break
                answer += chunk
        except OSError:
            return None
    head, _, body = answer.partition(b"\r\n\r\n")
    return body.decode(errors="replace") if head.split(b" ")[1:2] == [b"200"] else None


def _calls_at(url: str) -> float:
    """Calls that vLLM runs or holds waiting; 0 where it does not say."""
    pattern = r"^vllm:num_requests_(?:running|waiting)(?:\{[^}]*\})? ([0-9.e+]+)$"
    return sum(float(value) for value in re.findall(pattern, get(url, "/metrics") or "", re.MULTILINE))


# Routers


def reach(addresses: list[str], proxy: str | None, ca: str | None) -> dict[str, tuple[bool, str]]:
    """Whether each router can be reached from here, and a sentence about it; all at once, within `REACH_SECONDS`."""
    found = dict.fromkeys(addresses, (False, f"no answer within {REACH_SECONDS:g} s."))

    def ask(address: str) -> None:
        try:
            found[address] = (True, _reach_one(address, proxy, ca))
        except (OSError, ValueError) as why:
            found[address] = (False, f"{getattr(why, 'strerror', None) or why or type(why).__name__}.")

    asking = [threading.Thread(target=ask, args=(address,), daemon=True) for address in found]
    for thread in asking:
        thread.start()
    until = time.monotonic() + REACH_SECONDS
    for thread in asking:
        thread.join(max(0.0, until - time.monotonic()))
    return dict(found)


def _reach_one(address: str, proxy: str | None, ca: str | None) -> str:
    """Connects; `https://host[:port]` by TLS, and through the proxy where one is set. Raises `OSError`."""
    secure = address.startswith("https://")
    parts = urllib.parse.urlsplit(address if "://" in address else f"//{address}")
    host, port = parts.hostname or "", parts.port or (443 if secure else 7000)
    through = _proxy_for(host, proxy) if secure else None
    where = (through.hostname or "", through.port or 3128) if through else (host, port)
    with socket.create_connection(where, REACH_SECONDS) as connection:
        if through:
            _connect_through(connection, through, f"{host}:{port}")
        if secure:
            context = ssl.create_default_context(cafile=ca or _authorities())
            context.set_alpn_protocols(["h2"])
            context.wrap_socket(connection, server_hostname=host).close()
    return f"reached{f' through {where[0]}:{where[1]}' if through else ''}."


def _authorities() -> str | None:
    """The system's, where `weft worker` looks for them; a Python that a site has built itself may not find them."""
    files = (ssl.get_default_verify_paths().cafile, *BUNDLES)
    return next((file for file in files if file and Path(file).is_file()), None)


def _proxy_for(host: str, proxy: str | None) -> urllib.parse.SplitResult | None:
    """The proxy that `weft worker` would use: its flag, else that of the environment."""
    if proxy is None:
        if urllib.request.proxy_bypass_environment(host):  # type: ignore[attr-defined]
            return None
        proxy = urllib.request.getproxies_environment().get("https", "")
    if proxy in ("", "none"):
        return None
    return urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")


def _connect_through(connection: socket.socket, proxy: urllib.parse.SplitResult, target: str) -> None:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.username:
        pair = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}")
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < 65536:
        chunk = connection.recv(4096)
        if not chunk:
            break
        answer += chunk
    first = answer.split(b"\r\n")[0].decode(errors="replace")
    if first.split(" ")[1:2] != ["200"]:
        raise OSError(f"the proxy {proxy.hostname} answered {first[:100]!r}")


# The site


def _words_of(name: str, problems: list[str]) -> list[str]:
    try:
        return shlex.split(os.environ.get(name, ""))
    except ValueError as why:
        problems.append(f"{name} cannot be split into words: {why}.")
        return []


def untraced(words: list[str]) -> list[str]:
    """vLLM's command without the flag that has it send its spans to its worker, `{otlp}`: it has none."""
    kept: list[str] = []
    for word in words:
        if word == "{otlp}" and kept[-1:] and kept[-1].startswith("--"):
            kept.pop()
        elif not (word.startswith("--") and word.endswith("={otlp}")):
            kept.append(word)
    return kept


def _site_flags(flags: list[str]) -> argparse.Namespace:
    """Those of the site's flags that matter here."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--router-ca", "--proxy", "--vllm-url", "--vllm-command"):
        parser.add_argument(name, nargs="?")
    return parser.parse_known_args(flags)[0]


def _account() -> str:
    """The local account. Not from the environment, where a user can write what he likes."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _weft_version() -> str:
    try:
        return importlib.metadata.version("weft")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _output(*command: str) -> str:
    """What a command says; nothing if it fails."""
    try:
        # In UTC, so that the times in words can be read.
        environ = {**os.environ, "TZ": "UTC", "LC_ALL": "C"}
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=COMMAND_SECONDS, check=False, env=environ
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def job_of_this_process(began: float, walltime: float | None) -> dict[str, Any]:
    """The scheduler's job: its id, this host, the local account, and when it ends (seconds since 1970; None: never)."""
    slurm, pbs = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("PBS_JOBID", "")
    end = _slurm_end(slurm) if slurm else _pbs_end(pbs) if pbs else None
    if end is None and walltime:
        end = began + walltime
    return {"id": slurm or pbs, "host": socket.gethostname(), "account": _account(), "end_time": end}


def _slurm_end(job: str) -> float | None:
    told = os.environ.get("SLURM_JOB_END_TIME", "")  # since 23.02
    if told.isascii() and told.isdigit():
        return float(told)
    said = _output("squeue", "--noheader", f"--jobs={job}", "--format=%e").strip()
    if not said:
        found = re.search(r"\bEndTime=(\S+)", _output("scontrol", "show", "job", job))
        said = found[1] if found else ""
    with contextlib.suppress(ValueError):
        return float(calendar.timegm(time.strptime(said, "%Y-%m-%dT%H:%M:%S")))
    return None


def _pbs_end(job: str) -> float | None:
    """From the text, which is no less exact than PBS's JSON and always well-formed."""
    said = _output("qstat", "-f", job)
    started = re.search(r"^\s+stime = (.+)$", said, re.MULTILINE)
    walltime = re.search(r"^\s+Resource_List\.walltime = (?:(\d+):)?(\d+):(\d+)$", said, re.MULTILINE)
    if started is None or walltime is None:
        return None
    with contextlib.suppress(ValueError):
        hours, minutes, seconds = (int(part or 0) for part in walltime.groups())
        begin = calendar.timegm(time.strptime(started[1].strip()))
        return float(begin + hours * 3600 + minutes * 60 + seconds)
    return None


# Logs


def begin_log(log: Path) -> None:
    """Makes a new log, for this account alone; the one before is kept beside it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        log.replace(f"{log}.1")
    # As the one who makes it: in a folder that others write in, a link may have been put in its place.
    os.close(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def tail(log: Path) -> list[str]:
    """The last lines of a log."""
    try:
        with log.open("rb") as opened:
            opened.seek(max(0, log.stat().st_size - 64 * 1024))
            lines = opened.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [line[:LINE_LENGTH] for line in lines[-TAIL_LINES:]]


def redacted(text: str, secrets: list[str]) -> str:
    """The text without credentials: those that we know, and what looks like one."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[redacted]")
    for pattern in SECRETS:
        text = re.sub(pattern, r"\1[redacted]", text, flags=re.IGNORECASE)
    return text


def _exit_words(code: int) -> str:
    number = code - 128 if code > 128 else -code  # of what the keeper held, or of the keeper itself
    return f"signal {number}" if number > 0 else f"exit code {code}"
