"""One call to the vLLM of this node, for nodes that cannot dial out; sent as the text of this file."""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import os
import re
import socket
import stat
import time
import urllib.parse
from pathlib import Path
from typing import Any

REQUEST_HEADERS = frozenset(
    (
        *("accept", "anthropic-beta", "anthropic-version", "content-type", "endpoint-load-metrics-format"),
        *("traceparent", "tracestate", "x-request-id"),
    )
)
RESPONSE_HEADERS = frozenset(("content-type", "endpoint-load-metrics", "metadata", "retry-after", "x-request-id"))
OPERATION = re.compile(
    r"/v1/(?!(?:un)?load_lora_adapter$)[A-Za-z0-9_-]{1,64}(?:/[A-Za-z0-9_-]{1,64}){0,3}"
    r"|/(?:v2/embed|(?:v2/)?rerank|classify|detokenize|generative_scoring|health|pooling|score|tokenize|version)"
)
"""What asks vLLM for something, and changes nothing for others: as the router has it in services/router/operations.py,
for who submits this function need not be the launcher.
"""
RESULT_LIMIT = 10 * 1024 * 1024 - 16 * 1024
"""Bytes of a result as Globus Compute serialises it; it refuses 10 MiB, and adds some of its own."""
DEFAULT_TIMEOUT = 300.0
POLL_SECONDS = 0.25
CHUNK = 256 * 1024


class CallError(Exception):
    """Ends the call with an error of a `kind` of the contract."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def inference(request: dict[str, Any]) -> dict[str, Any]:
    """Passes one request to the vLLM that start-worker runs on this node, and gives back what it answers.

    `request`: `endpoint` and `slot` say which vLLM; `operation` (a path), `method`, `headers` (pairs), and `body`
    (text) or `body_base64`; `timeout_s` for the whole answer, `wait_s` for a vLLM that is still starting, and
    `api_port` where it listens if start-worker has not told. Gives `status`, `headers` and `body` or `body_base64`,
    whatever the status is; or `error` with a `kind` (`vllm_unreachable`, `timeout`, `result_too_large`, `bad_request`)
    and a `message`. In either case `times` tells when this was, in seconds since 1970 by the node's clock: `began`,
    `ended`, and if it came to that `sent` (the request, to vLLM) and `answered` (vLLM's status came); `host` is the
    node.

    With `control` in place of a call: `state` gives `state` (`none`, `starting`, `ready`) and `detail`; `stop` asks
    start-worker to end the start named by `start` (any, if empty) and gives `stopped`. It raises nothing.
    """
    times = {"began": time.time()}
    try:
        folder = _slot_folder(str(request.get("endpoint") or ""), request.get("slot"))
        control = request.get("control")
        if control == "state":
            return _state(folder, request.get("api_port"), str(request.get("start") or ""))
        if control == "stop":
            return {"stopped": _stop(folder, str(request.get("start") or ""))}
        if control is not None:
            raise CallError("bad_request", f"There is no control {str(control)[:50]!r}: use 'state' or 'stop'.")
        result = _call(folder, request, times)
    except CallError as why:
        result = {"error": {"kind": why.kind, "message": str(why)}}
    return {**result, "times": {**times, "ended": time.time()}, "host": socket.gethostname()}


def _call(folder: Path, request: dict[str, Any], times: dict[str, float]) -> dict[str, Any]:
    operation, method = str(request.get("operation") or ""), str(request.get("method") or "POST")
    if OPERATION.fullmatch(operation) is None or method not in ("GET", "POST", "DELETE"):
        raise CallError("bad_request", f"{method[:20]!r} {operation[:100]!r} is no operation of a model server.")
    headers, body = _headers(request.get("headers") or []), _body(request)
    wait, timeout = _seconds(request, "wait_s", 0.0), _seconds(request, "timeout_s", DEFAULT_TIMEOUT)
    patience = time.monotonic() + wait
    while True:
        deadline = time.monotonic() + timeout
        url, detail = _url(folder, request.get("api_port"))
        try:
            connection = _connect(url, min(timeout, 10.0)) if url else None
        except OSError as why:
            connection, detail = None, f"vLLM at {url} does not listen yet: {why.strerror or why}."
        if connection is not None:
            try:
                return _exchange(connection, method, operation, headers, body, deadline, times)
            finally:
                connection.close()  # vLLM stops computing for whom has left
        left = patience - time.monotonic()
        if left <= 0:
            waited = f" Waited {wait:g} s." if wait else ""
            raise CallError("vllm_unreachable", f"{detail}{waited}")
        time.sleep(min(POLL_SECONDS, left))


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    operation: str,
    headers: dict[str, str],
    body: bytes,
    deadline: float,
    times: dict[str, float],
) -> dict[str, Any]:
    """Sends, and reads the whole answer. The deadline holds for all of it, however often bytes arrive."""
    chunks: list[bytes] = []
    size = 0
    plug: socket.socket = connection.sock  # `getresponse` lets go of it when the server will close
    try:
        _limit(plug, deadline)
        times["sent"] = time.time()
        connection.request(method, operation, body=body if method != "GET" else None, headers=headers)
        _limit(plug, deadline)
        answer = connection.getresponse()
        times["answered"] = time.time()
        expected = answer.length  # None if it is chunked; `read1` counts it down in some Pythons only
        while size != expected:
            _limit(plug, deadline)
            chunk = answer.read1(CHUNK)
            if not chunk:
                break
            chunks.append(chunk)
            size += len(chunk)
            if size > RESULT_LIMIT:
                raise _too_large(size)
        if not answer.chunked and size != expected:  # without a length too: nothing then tells whether it is whole
            raise http.client.IncompleteRead(b"")
    except socket.timeout:  # noqa: UP041 - another class before Python 3.10
        raise CallError("timeout", "vLLM did not answer in time; the call was given up.") from None
    except (OSError, http.client.HTTPException) as why:
        raise CallError("vllm_unreachable", f"vLLM broke off before its answer was whole: {_words(why)}.") from None
    result: dict[str, Any] = {
        "status": answer.status,
        "headers": [[name.lower(), value] for name, value in answer.getheaders() if name.lower() in RESPONSE_HEADERS],
    }
    whole = b"".join(chunks)
    try:
        result["body"] = whole.decode()
    except UnicodeDecodeError:
        result["body_base64"] = base64.b64encode(whole).decode()
    _check_size(result, size)
    return result


def _check_size(result: dict[str, Any], size: int) -> None:
    """Raises `CallError` for what Globus Compute will not carry, by whichever serialiser the endpoint uses.

    Its default pickles and encodes by base64, in lines of 76 characters; the other is JSON, which escapes.
    """
    as_json = len(json.dumps(result))
    text = str(result.get("body_base64") or "")
    as_base64 = (len(text) or size) * 4 // 3 * 77 // 76 + 4096
    if max(as_json, as_base64) > RESULT_LIMIT:
        raise _too_large(size)


def _too_large(size: int) -> CallError:
    return CallError(
        "result_too_large",
        f"The answer has {size / 2**20:.1f} MiB or more, and Globus Compute carries results of 10 MiB after encoding: "
        "ask for less at once (fewer inputs, tokens or log probabilities).",
    )


def _limit(plug: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout  # noqa: UP041 - another class before Python 3.10
    plug.settimeout(left)


def _headers(pairs: Any) -> dict[str, str]:
    headers = {"connection": "close"}
    try:
        for name, value in pairs:
            if str(name).lower() in REQUEST_HEADERS:
                if re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", str(value)) is None:
                    raise CallError("bad_request", f"The header {str(name)[:50]!r} holds what no header can have.")
                headers[str(name).lower()] = str(value)
    except (TypeError, ValueError):
        raise CallError("bad_request", "'headers' must be a list of pairs.") from None
    return headers


def _body(request: dict[str, Any]) -> bytes:
    text, encoded = request.get("body"), request.get("body_base64")
    if text is not None and encoded is not None:
        raise CallError("bad_request", "Give 'body' or 'body_base64', not both.")
    try:
        return str(text or "").encode() if encoded is None else base64.b64decode(str(encoded), validate=True)
    except (binascii.Error, ValueError):
        raise CallError("bad_request", "The body is neither text nor base64.") from None


def _seconds(request: dict[str, Any], name: str, default: float) -> float:
    try:
        value = float(default if request.get(name) is None else request[name])
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value < 10**9:
        raise CallError("bad_request", f"{name!r} must be a number of seconds.")
    return value


# Where vLLM is


def _run_folder() -> Path:
    named = os.environ.get("WEFT_RUN_DIR")
    return Path(named) if named else Path(os.environ.get("TMPDIR") or "/tmp") / f"weft-{os.getuid()}"  # noqa: S108


def _slot_folder(endpoint: str, slot: Any) -> Path:
    """Where start-worker keeps what belongs to a slot. Raises `CallError` for a name that is none."""
    part = r"([a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?)"
    named = re.fullmatch(f"clusters/{part}/endpoints/{part}", endpoint)
    if named is None or isinstance(slot, bool) or not isinstance(slot, int) or slot < 0:
        raise CallError("bad_request", f"There is no endpoint {endpoint[:200]!r} with a slot {slot!r}.")
    return _run_folder() / f"{named[1]}.{named[2]}.{slot}"


def _own(folder: Path) -> bool:
    """Whether a slot's folder, and the one above, are this account's: in /tmp anybody can make one of that name, and
    would be sent what vLLM is asked.
    """
    try:
        found = [each.lstat() for each in (folder.parent, folder)]
    except OSError:
        return False
    return all(stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() for status in found)


def _server(folder: Path) -> dict[str, Any] | None:
    """The `server.json` of a start that still runs; None if there is none."""
    if not _own(folder):
        return None
    try:
        server = json.loads((folder / "server.json").read_bytes())
        os.kill(int(server["pid"]), 0)
    except PermissionError:  # It runs, under another account.
        return server  # type: ignore[no-any-return]
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    return server  # type: ignore[no-any-return]


def _url(folder: Path, api_port: Any) -> tuple[str, str]:
    """Where vLLM listens, or will; empty with a sentence that says why if nobody knows."""
    server = _server(folder)
    if server is not None and server.get("state") == "stopping":
        return "", "The vLLM of this node is being stopped."
    if server is not None and server.get("url"):
        return str(server["url"]), ""
    if isinstance(api_port, int) and 0 < api_port < 65536:
        return f"http://127.0.0.1:{api_port}", ""
    return "", f"No vLLM runs on {socket.gethostname()} for this endpoint and slot, or its task has ended."


def _connect(url: str, timeout: float) -> http.client.HTTPConnection:
    """A connection that is open. Raises `OSError`."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "localhost", parts.port or 80, timeout=timeout)
    if parts.scheme == "unix":
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(timeout)
        try:
            connection.sock.connect(parts.path)
        except OSError:
            connection.close()
            raise
    else:
        connection.connect()
    return connection


def _words(why: BaseException) -> str:
    if isinstance(why, http.client.IncompleteRead):
        return "its connection ended"
    return str(getattr(why, "strerror", None) or why or type(why).__name__)


# Control


def _state(folder: Path, api_port: Any, start: str) -> dict[str, Any]:
    server = _server(folder)
    if start and server is not None and server.get("start") not in ("", None, start):
        return {"state": "none", "detail": "Another start's vLLM still runs here."}
    url, detail = _url(folder, api_port)
    if not url:
        return {"state": "none", "detail": detail}
    known = server is not None
    try:
        connection = _connect(url, 5.0)
        try:
            connection.request("GET", "/health", headers={"connection": "close"})
            status = connection.getresponse().status
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as why:
        state = "starting" if known else "none"
        return {"state": state, "detail": f"vLLM at {url} does not answer: {_words(why)}."}
    if status == 200:
        return {"state": "ready", "detail": f"vLLM at {url} is well."}
    return {"state": "starting", "detail": f"vLLM at {url} answers with status {status}."}


def _stop(folder: Path, start: str) -> bool:
    """Leaves the file that start-worker watches; False if that start does not run here."""
    server = _server(folder)
    if server is None or (start and server.get("start") != start):
        return False
    partial = folder / f"stop.{os.getpid()}"
    partial.write_text(str(server.get("start") or ""))
    partial.replace(folder / "stop")
    return True
