"""A batch: the requests of a JSONL file on the cluster, answered by one vLLM; sent as the text of this file.

vLLM's own `run_batch` hands all requests to the engine at once and writes its output when the last is done: killed
before, it has nothing to go on from. So here vLLM's server is started once, the requests are fed to it, and each answer
is kept as it comes. Whoever runs the batch again goes on where it was.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

POLL_SECONDS = 0.2
PROGRESS_SECONDS = 1.0
STALE_SECONDS = 60.0
"""How long after its last word a batch on another host is taken to be dead."""
LOCK_SECONDS = 60.0
HEALTH_SECONDS = 1.0
SICK_SECONDS = 10.0
"""What a vLLM that is no longer well has to end by itself, before it is ended."""
REQUEST_SECONDS = 3600.0
STOP_SECONDS = 20.0
KILL_SECONDS = 15.0
"""What the keeper has, on top of that, to find and kill what is left."""
MAX_LINE = 64 * 1024 * 1024
BUSY_RETRIES = 20
"""How often a request is offered again to a vLLM that says that it is busy."""
URLS = frozenset(
    (
        *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"),
        *("/v1/score", "/score", "/v1/rerank", "/v2/rerank", "/rerank", "/pooling", "/classify"),
    )
)

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


class BatchError(Exception):
    """The batch cannot go on; the message is for its user."""


class Stopped(Exception):  # noqa: N818 - an end, and no error
    """The batch ends before it is whole, with a status of its own."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def batch(request: dict[str, Any]) -> dict[str, Any]:
    """Answers the requests of `input_file`, in OpenAI's batch format, into `output_folder`.

    `request`: `input_file`, `output_folder`, `model` (the only one that lines may name; empty: any), `batch` (its id,
    which names its files), `resume` (True: what is done stays done), `cancel` (True: stops the one that runs, and
    returns), `concurrency`, `request_timeout_s`, `vllm_restarts` (failures in a row, without one answer between, that
    are borne), `end_time` (seconds since 1970) and `drain_before_s`.

    Gives `status` (`completed`, `cancelled`, `interrupted`: to be run again, `running`: it runs elsewhere, `failed`),
    `completed`, `failed`, `total`, `output_file`, `error_file` and `detail`. It raises nothing.
    """
    folder = Path(str(request.get("output_folder") or ""))
    name = str(request.get("batch") or "")
    answer: dict[str, Any] = {"status": "failed", "completed": 0, "failed": 0, "total": 0, "detail": ""}
    answer.update(output_file="", error_file="")
    try:
        files = Files(folder, name)
        answer.update(output_file=str(files.output), error_file=str(files.errors))
        if request.get("cancel"):
            answer.update(files.last_progress() or {})
            if answer["status"] != "completed":  # Else the mark would stop whoever runs it anew.
                os.close(open_own(files.cancel))
                answer.update(status="cancelling", detail="It was asked to stop.")
            return {key: answer[key] for key in ANSWER}
        with locked(files) as lock, told_to_end() as told:
            run = Run(files, request, told, lock)
            try:
                run.prepare()
                try:
                    run.go()
                    status, detail = "completed", f"{run.failed} of {run.total} requests failed." if run.failed else ""
                except Stopped as why:
                    status, detail = why.status, str(why)
                except BatchError as why:
                    status, detail = "failed", str(why)
                run.finish(status, detail)
                answer.update(run.progress(status, detail))
            except OSError as why:
                detail = f"{_words(why)} What is answered is kept: run the batch again when that is mended."
                answer.update(run.progress("failed", detail))
                with contextlib.suppress(OSError):
                    run.write_progress("failed", detail)
            finally:
                run.close()
    except Stopped as why:
        answer.update(files.last_progress() or {}, status=why.status, detail=str(why))
    except BatchError as why:
        answer.update(status="failed", detail=str(why))
    except OSError as why:
        answer.update(status="failed", detail=_words(why))
    except (TypeError, ValueError, LookupError) as why:
        answer.update(status="failed", detail=f"The request cannot be read: {why}.")
    return {key: answer[key] for key in ANSWER}


ANSWER = ("status", "completed", "failed", "total", "output_file", "error_file", "detail")


def _words(why: OSError) -> str:
    return f"{why.filename or 'The file system'}: {why.strerror or why}."


class Files:
    """The files of a batch, all in its output folder. Raises `BatchError` for a place that is not allowed."""

    def __init__(self, folder: Path, name: str) -> None:
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) is None:
            raise BatchError(f"{name[:100]!r} is no id of a batch: letters, digits, '.', '_' and '-', at most 100.")
        allowed(folder, "output_folder")
        folder.mkdir(parents=True, exist_ok=True)
        self.output = folder / f"{name}.output.jsonl"
        self.errors = folder / f"{name}.errors.jsonl"
        self.done = folder / f"{name}.done.jsonl"
        """What is answered, as it came; the two above are made of it at the end."""
        self.progress = folder / f"{name}.progress.json"
        self.cancel = folder / f"{name}.cancel"
        self.lock = folder / f"{name}.lock"
        self.log = folder / f"{name}.vllm.log"

    def last_progress(self) -> dict[str, Any] | None:
        """What the progress file says; None if there is none."""
        with contextlib.suppress(OSError, ValueError):
            said = json.loads(self.progress.read_bytes())
            return said if isinstance(said, dict) else None
        return None


def allowed(path: Path, what: str) -> None:
    """Raises `BatchError` for a path that the site does not open to batches (WEFT_BATCH_FOLDERS, divided by colons)."""
    if not path.is_absolute():
        raise BatchError(f"{what!r} must be an absolute path on the cluster's file system; it is {str(path)!r}.")
    folders = [Path(folder) for folder in os.environ.get("WEFT_BATCH_FOLDERS", "").split(":") if folder]
    real = path.resolve()
    if folders and not any(folder.resolve() in (real, *real.parents) for folder in folders):
        raise BatchError(f"{what!r} must be in one of {', '.join(map(str, folders))}; {str(path)!r} is not.")


@contextlib.contextmanager
def locked(files: Files) -> Any:
    """Holds the batch against a second run of it. Raises `Stopped` if it runs."""
    descriptor = open_own(files.lock)
    try:
        until = time.monotonic() + LOCK_SECONDS
        while not _free(files, descriptor):
            said = files.last_progress() or {}
            if said.get("status") == "running" and _alive(said):
                raise Stopped("running", f"It runs already, on {said.get('host')}.")
            if time.monotonic() > until:
                raise Stopped("running", f"Its last run has not ended within {LOCK_SECONDS:g} s.")
            time.sleep(POLL_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


def _free(files: Files, descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as why:
        if why.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        # A file system without locks, as Lustre is mounted at some sites: what its progress says must do.
        said = files.last_progress() or {}
        return said.get("status") != "running" or not _alive(said)
    return True


def _alive(said: dict[str, Any]) -> bool:
    """Whether the run that wrote this progress may still be there."""
    if said.get("host") != socket.gethostname():
        return time.time() - float(said.get("update_time") or 0) < STALE_SECONDS
    try:
        os.kill(int(said.get("pid") or 0), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, TypeError):
        return False
    return True


def open_own(file: Path, flags: int = 0, mode: int = 0o600) -> int:
    """A file in the output folder, made if need be. Through no link: who may write there need not be this account, and
    is not to choose which of its files are written.
    """
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | flags, mode)


class Line:
    """A request of the input: where it stands there, and what its author calls it."""

    __slots__ = ("custom_id", "length", "number", "offset", "refused")

    def __init__(self, number: int, offset: int, length: int) -> None:
        self.number, self.offset, self.length = number, offset, length
        self.custom_id = ""
        self.refused = ("", "")
        """A code and a sentence, for a request that vLLM is not asked."""


class Input:
    """The input file: each line checked, and read again when its turn comes, so that memory does not grow with it."""

    def __init__(self, path: Path, model: str) -> None:
        self._path, self._model = path, model
        self.lines: list[Line] = []
        digest = hashlib.sha256()
        seen: set[str] = set()
        offset = 0
        try:
            if path.exists() and not path.is_file():
                raise ValueError("it is no file")  # A pipe would be waited for, and a device never ends.
            with path.open("rb") as opened:
                for number, (text, length) in enumerate(_lines(opened, digest.update), 1):
                    line = Line(number, offset, length)
                    offset += length
                    if not text.strip():
                        continue
                    line.refused = self._check(line, text, seen)
                    seen.add(line.custom_id)
                    self.lines.append(line)
        except (OSError, ValueError) as why:
            said = getattr(why, "strerror", None) or why
            raise BatchError(f"The input file {str(path)!r} cannot be read: {said}.") from None
        if not self.lines:
            raise BatchError(f"The input file {str(path)!r} holds no request.")
        self.sha256 = digest.hexdigest()

    def _check(self, line: Line, text: bytes, seen: set[str]) -> tuple[str, str]:
        try:
            read = json.loads(text) if len(text) <= MAX_LINE else None
        except (ValueError, RecursionError):
            return "invalid_json_line", "The line is not JSON."
        if not isinstance(read, dict):
            return "invalid_json_line", "The line is not a JSON object, or too long."
        if not isinstance(read.get("custom_id"), str) or not read["custom_id"]:
            return "missing_required_parameter", "'custom_id' is missing."
        line.custom_id = read["custom_id"]
        if line.custom_id in seen:
            return "duplicate_custom_id", "A line before has the same 'custom_id'."
        if read.get("method", "POST") != "POST" or read.get("url") not in URLS:
            return "invalid_url", f"'method' must be POST, and 'url' one of {', '.join(sorted(URLS))}."
        body = read.get("body")
        if not isinstance(body, dict):
            return "invalid_request", "'body' must be an object."
        if self._model and body.get("model", self._model) != self._model:
            return "mismatched_model", f"This batch is for the model {self._model!r}."
        if body.get("stream"):
            return "invalid_request", "A batch has no streamed answers."
        return "", ""

    def request(self, line: Line, opened: BinaryIO) -> tuple[str, bytes]:
        """The path and the body of a request; `opened` is the input file, opened by who asks. Raises `BatchError` if
        that is no longer what it was.
        """
        opened.seek(line.offset)
        with contextlib.suppress(ValueError, LookupError, TypeError):
            read = json.loads(opened.read(line.length))
            if read["custom_id"] == line.custom_id:
                return self._request(read["url"], read["body"])
        raise BatchError(f"The input file {str(self._path)!r} was changed while it was read: run it under another id.")

    def _request(self, url: str, body: dict[str, Any]) -> tuple[str, bytes]:
        if self._model:
            body.setdefault("model", self._model)
        # As ASCII: half a character, which JSON can hold and UTF-8 cannot, passes.
        return url, json.dumps(body).encode()

    def open(self) -> BinaryIO:
        """The input file, to be read by `request`."""
        return self._path.open("rb")


def _lines(opened: BinaryIO, see: Callable[[bytes], None]) -> Iterator[tuple[bytes, int]]:
    """Each line and its length; of one that is longer than `MAX_LINE` the beginning, so that memory does not grow with
    it. All of the file is shown to `see`.
    """
    while text := opened.readline(MAX_LINE + 1):
        see(text)
        length, more = len(text), text
        while len(more) > MAX_LINE and not more.endswith(b"\n"):
            more = opened.readline(MAX_LINE + 1)
            see(more)
            length += len(more)
        yield text, length


class Run:
    """One run of a batch."""

    def __init__(self, files: Files, request: dict[str, Any], told: threading.Event, lock: int) -> None:
        self._files, self._told, self._lock = files, told, lock
        self._name = str(request["batch"])
        self._input_file = Path(str(request.get("input_file") or ""))
        self._model = str(request.get("model") or "")
        self._resume = bool(request.get("resume", True))
        self._concurrency = max(1, int(request.get("concurrency") or 64))
        self._timeout = float(request.get("request_timeout_s") or REQUEST_SECONDS)
        self._restarts = int(3 if request.get("vllm_restarts") is None else request["vllm_restarts"])
        end = float(request.get("end_time") or os.environ.get("SLURM_JOB_END_TIME") or 0)
        self._end = end or float("inf")
        self._last_call = self._end - float(request.get("drain_before_s") or 60.0)
        self._began = time.time()
        self._writing = threading.Lock()
        self._answered: dict[int, tuple[int, int, bool]] = {}
        """By the number of its line: where an answer stands in the file of those that are done, and if it is good."""
        self._waiting: deque[Line] = deque()
        self._suspects: deque[Line] = deque()
        """Requests that vLLM was at when it ended: asked again alone, so that it is known which one it was."""
        self._loads = 0
        self.completed, self.failed, self.total = 0, 0, 0

    def prepare(self) -> None:
        """Reads the input, and what an earlier run has done. Raises `BatchError`, or `Stopped` if nothing is to do."""
        files, last = self._files, self._files.last_progress() or {}
        allowed(self._input_file, "input_file")
        self.input = Input(self._input_file, self._model)
        self.total = len(self.input.lines)
        if self._resume and last.get("sha256") not in (None, self.input.sha256):
            raise BatchError("The input file is not the one that this batch began with: give the batch another id.")
        if self._resume and last.get("status") == "completed" and files.output.exists():
            raise Stopped("completed", "It was completed before.")
        if not self._resume:
            for file in (files.done, files.output, files.errors):
                file.unlink(missing_ok=True)
        self._done = os.fdopen(open_own(files.done, os.O_APPEND, 0o666), "a+b")
        self._read_done()
        # Before anything more is kept, so that it is never taken for an answer to another input.
        self.write_progress("running", "")
        for line in self.input.lines:
            if line.number in self._answered:
                continue
            if line.refused[0]:
                self.refuse(line, *line.refused)
            else:
                self._waiting.append(line)

    def _read_done(self) -> None:
        self._done.seek(0)
        good = 0
        for text in self._done:
            try:
                read = json.loads(text)
                number, ok = int(read["line"]), bool(read["ok"])
            except (ValueError, KeyError, TypeError):
                break
            if not text.endswith(b"\n"):
                break
            self._keep(number, good, len(text), ok)
            good += len(text)
        self._done.truncate(good)  # what a kill left half written
        self._done.seek(good)

    def _keep(self, number: int, offset: int, length: int, ok: bool) -> None:
        if number not in self._answered:
            self.completed += ok
            self.failed += not ok
        self._answered[number] = (offset, length, ok)

    def close(self) -> None:
        """Lets go of its files. What could not be written stays unwritten: later, it would be among another run's."""
        if hasattr(self, "_done"):
            with contextlib.suppress(OSError):
                self._done.close()

    def refuse(self, line: Line, code: str, message: str) -> None:
        """Keeps that a request has no answer, and why."""
        self.record(line, {"response": None, "error": {"code": code, "message": message}}, False)

    def record(self, line: Line, outcome: dict[str, Any], ok: bool) -> None:
        """Keeps what became of a request, for good."""
        out = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": line.custom_id, **outcome}
        text = json.dumps({"line": line.number, "ok": ok, "out": out}).encode() + b"\n"
        with self._writing:
            offset = self._done.tell()
            self._done.write(text)
            self._done.flush()
            self._keep(line.number, offset, len(text), ok)

    # vLLM

    def go(self) -> None:
        """Has all requests answered that are not. Raises `Stopped` and `BatchError`."""
        self._check()
        words = shlex.split(os.environ.get("WEFT_BATCH_VLLM_COMMAND") or os.environ.get("WEFT_VLLM_COMMAND") or "")
        if self._waiting and not any("{port}" in word for word in words):
            raise BatchError(
                "WEFT_BATCH_VLLM_COMMAND (or WEFT_VLLM_COMMAND) is not set, or lacks {port}: export it in the "
                "endpoint's worker_init, such as 'vllm serve MODEL --host 127.0.0.1 --port {port}'."
            )
        in_a_row, ends = 0, 0
        while self._waiting or self._suspects:
            before = len(self._answered)
            if self._life(words):
                continue
            ends += 1
            in_a_row = in_a_row + 1 if len(self._answered) == before else 1
            if in_a_row > self._restarts or ends > 10 * max(1, self._restarts):
                said = _last_words(self._files.log)
                raise BatchError(f"vLLM ended {ends} times by itself; the end of its log: {said}")

    def _life(self, words: list[str]) -> bool:
        """One life of vLLM; false if it ended before all was answered."""
        port = free_port()
        os.close(open_own(self._files.log, os.O_APPEND, 0o666))
        keeper = Keeper(
            [word.replace("{port}", str(port)) for word in untraced(words)], self._files.log, STOP_SECONDS, self._lock
        )
        self._loads += 1
        try:
            asked = 0.0
            while not well(port, asked):
                asked = time.monotonic()
                if keeper.wait(POLL_SECONDS) is not None:
                    return False
                self._check()
            return self._feed(self._suspects, 1, port, keeper) and self._feed(
                self._waiting, self._concurrency, port, keeper
            )
        finally:
            keeper.stop()

    def _feed(self, lines: deque[Line], concurrency: int, port: int, keeper: Keeper) -> bool:
        """Has these lines answered, so many at once; false if vLLM ended meanwhile."""
        feeder = Feeder(self, lines, concurrency, port, self._timeout)
        try:
            while not feeder.wait(POLL_SECONDS):
                feeder.check()
                if feeder.sick.is_set() or keeper.wait(0) is not None:
                    keeper.wait(SICK_SECONDS)
                    keeper.stop()
                    guilty = feeder.stop()
                    self._check()  # Who ends us may have ended vLLM with us: then nobody is guilty.
                    if concurrency == 1:
                        for line in guilty:
                            self.refuse(line, "vllm_crashed", "vLLM ended when it was asked this, and nothing else.")
                    else:
                        self._suspects.extend(guilty)
                    return False
                self._check(feeder)
            feeder.check()
        except BaseException:
            keeper.stop()  # Before the threads are waited for, which wait for vLLM.
            feeder.stop()
            raise
        return True

    def _check(self, feeder: Feeder | None = None) -> None:
        """Writes the progress down now and then. Raises `Stopped` when there is reason to stop."""
        now = time.time()
        if now - self._progress_at >= PROGRESS_SECONDS:
            self._progress_at = now
            os.fsync(self._done.fileno())
            self.write_progress("running", "")
        if self._told.is_set():
            raise Stopped("interrupted", "The task was told to end: run the batch again, and it goes on from here.")
        if self._files.cancel.exists():
            raise Stopped("cancelled", "It was asked to stop.")
        if now >= self._last_call:
            if feeder is not None:
                # What is under way may come to its end.
                feeder.finish(self._end - STOP_SECONDS - time.time())
            raise Stopped("interrupted", "The job's time is over: run the batch again, and it goes on from here.")

    _progress_at = 0.0

    # Its end

    def progress(self, status: str, detail: str) -> dict[str, Any]:
        """How far the batch is."""
        return {
            "batch": self._name,
            "status": status,
            "total": self.total,
            "completed": self.completed,
            "failed": self.failed,
            "detail": detail,
            "output_file": str(self._files.output),
            "error_file": str(self._files.errors),
            "sha256": getattr(getattr(self, "input", None), "sha256", None),
            "model_loads": self._loads,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "start_time": self._began,
            "update_time": time.time(),
        }

    def write_progress(self, status: str, detail: str) -> None:
        """Writes it down, whole or not at all."""
        write_whole(self._files.progress, [json.dumps(self.progress(status, detail)).encode() + b"\n"])

    def finish(self, status: str, detail: str) -> None:
        """Makes the output and the error file, in the order of the input, unless the batch is to go on."""
        if status == "completed" and self._answered:
            self._write_results()
            self.write_progress(status, detail)
            for file in (self._files.done, self._files.cancel):  # A wish that came too late is for no later run.
                file.unlink(missing_ok=True)
            return
        if status in ("cancelled", "failed") and self._answered:
            self._write_results()
        if status == "cancelled":
            self._files.cancel.unlink(missing_ok=True)
        self.write_progress(status, detail)

    def _write_results(self) -> None:
        for file, good in ((self._files.output, True), (self._files.errors, False)):
            chosen = [place for _, place in sorted(self._answered.items()) if place[2] is good]
            if chosen or good:
                write_whole(file, (self._out(*place) for place in chosen))
            else:
                file.unlink(missing_ok=True)

    def _out(self, offset: int, length: int, ok: bool) -> bytes:
        self._done.seek(offset)
        return json.dumps(json.loads(self._done.read(length))["out"]).encode() + b"\n"


class Feeder:
    """Asks vLLM, so many requests at once, each by a thread with a connection of its own."""

    def __init__(self, run: Run, lines: deque[Line], concurrency: int, port: int, timeout: float) -> None:
        self._run, self._lines, self._port, self._timeout = run, lines, port, timeout
        self._busy: dict[int, Line] = {}
        self._taking = threading.Lock()
        self._closed = threading.Event()
        self.sick = threading.Event()
        self._error: Exception | None = None
        self._threads = [
            threading.Thread(target=self._work, args=(number,), daemon=True)
            for number in range(min(concurrency, len(lines)))
        ]
        for thread in self._threads:
            thread.start()

    def wait(self, seconds: float) -> bool:
        """Whether all is answered, waiting for it that long."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads) and not self._busy

    def check(self) -> None:
        """Raises what a thread has ended of: `OSError` of the file system, `BatchError` of anything else."""
        if isinstance(self._error, (OSError, BatchError)):
            raise self._error
        if self._error is not None:
            raise BatchError(f"The batch cannot go on: {type(self._error).__name__}: {self._error}.") from self._error

    def finish(self, seconds: float) -> None:
        """Lets what is under way come to its end, for so long."""
        with self._taking:
            self._lines.clear()
        self.wait(max(0.0, seconds))

    def stop(self) -> list[Line]:
        """Ends the threads; what they were at is given back, unanswered."""
        self._closed.set()
        for thread in self._threads:
            thread.join(10.0)
        with self._taking:
            return list(self._busy.values())

    def _work(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout)
        try:
            with self._run.input.open() as opened:
                while not self._closed.is_set():
                    with self._taking:
                        if not self._lines:
                            return
                        line = self._busy[number] = self._lines.popleft()
                    if not self._answer(line, connection, opened):
                        return  # It stays among the busy.
                    with self._taking:
                        del self._busy[number]
        except Exception as why:  # of a file system that is full, or gone; nobody else would hear of it
            self._error = why
        finally:
            connection.close()

    def _answer(self, line: Line, connection: http.client.HTTPConnection, opened: BinaryIO) -> bool:
        """Asks until there is an answer; false if vLLM is gone, or the batch stops."""
        try:
            path, body = self._run.input.request(line, opened)
        except RecursionError:
            self._run.refuse(line, "invalid_json_line", "The line holds too much within one another.")
            return True
        for attempt in range(BUSY_RETRIES + 1):
            if self._closed.is_set():
                return False
            if attempt:
                self._closed.wait(min(10.0, 0.25 * 2**attempt))
            try:
                connection.request("POST", path, body=body, headers={"content-type": "application/json"})
                answer = connection.getresponse()
                text = answer.read()
            except socket.timeout:  # noqa: UP041 - another class before Python 3.10
                connection.close()
                self._run.refuse(line, "timeout", f"vLLM did not answer within {self._timeout:g} s.")
                return True
            except (OSError, http.client.HTTPException):
                connection.close()
                if not well(self._port, 0.0):
                    self.sick.set()
                    return False
                continue
            if answer.status in (429, 503) and attempt < BUSY_RETRIES and well(self._port, 0.0):
                continue
            if answer.status >= 500 and not well(self._port, 0.0):
                self.sick.set()
                return False
            response = response_of(answer, text)
            if is_aborted(response["response"]["body"]):
                if self._closed.wait(1.0):
                    return False
                if not well(self._port, 0.0):
                    self.sick.set()
                    return False
                continue
            self._run.record(line, response, answer.status < 400)
            return True
        self._run.refuse(line, "vllm_unreachable", "vLLM broke off each answer to this.")
        return True


def response_of(answer: http.client.HTTPResponse, text: bytes) -> dict[str, Any]:
    """What OpenAI's format says of an answer."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = text.decode(errors="replace")
    named = body.get("id") if isinstance(body, dict) else None
    identity = answer.getheader("x-request-id") or str(named or "")
    return {"response": {"status_code": answer.status, "request_id": identity, "body": body}, "error": None}


def is_aborted(body: Any) -> bool:
    """Whether vLLM broke off the generation, as it does when it is stopped: it answers with 200 and what it has so far,
    which would be kept for the whole answer.
    """
    choices = body.get("choices") if isinstance(body, dict) else None
    return isinstance(choices, list) and any(
        isinstance(choice, dict) and choice.get("finish_reason") == "abort" for choice in choices
    )


def well(port: int, since: float) -> bool:
    """Whether vLLM says that it is well; not asked more often than `HEALTH_SECONDS`."""
    if since and time.monotonic() - since < HEALTH_SECONDS:
        time.sleep(max(0.0, HEALTH_SECONDS - (time.monotonic() - since)))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_port() -> int:
    """A port of loopback that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def untraced(words: list[str]) -> list[str]:
    """vLLM's command without the flag that has it send its spans to its worker, `{otlp}`: it has none."""
    kept: list[str] = []
    for word in words:
        if word == "{otlp}" and kept[-1:] and kept[-1].startswith("--"):
            kept.pop()
        elif not (word.startswith("--") and word.endswith("={otlp}")):
            kept.append(word)
    return kept


def write_whole(file: Path, lines: Any) -> None:
    """Writes a file whole or not at all."""
    partial = file.with_name(f".{file.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        with os.fdopen(open_own(partial, os.O_EXCL, 0o666), "wb") as writing:
            writing.writelines(lines)
            writing.flush()
            os.fsync(writing.fileno())
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def redacted(text: str, secrets: list[str]) -> str:
    """The text without credentials: those that we know, and what looks like one."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[redacted]")
    for pattern in SECRETS:
        text = re.sub(pattern, r"\1[redacted]", text, flags=re.IGNORECASE)
    return text


def _last_words(log: Path) -> str:
    with contextlib.suppress(OSError), log.open("rb") as opened:
        opened.seek(max(0, log.stat().st_size - 4096))
        return redacted(opened.read().decode(errors="replace")[-1000:], [])
    return ""


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
