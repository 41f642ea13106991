"""`weft worker`: read with argparse, because the command line's own libraries are not in the base dependencies."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import logging
import os
import shlex
import signal
import sys
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path

from services.core.deadlines import Bounds
from services.core.errors import ServiceError
from services.core.names import endpoint_name
from services.core.tracing import current, log_fields
from services.rpc.remote import Way, check_router
from services.runtime.collector import calm
from services.worker.config import WorkerConfig, default_home
from services.worker.ending import Exit, WorkerFailedError
from services.worker.launch import free_port
from services.worker.main import serve
from services.worker.otlp import ANY_PORT, PLACEHOLDER


def main(argv: Sequence[str]) -> int:
    """Runs a worker; returns the exit status."""
    try:
        config, log_level = parse(argv)
        _set_up_logging(log_level)
        calm()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(config))
    except asyncio.CancelledError:
        return Exit.ERROR  # somebody in a hurry; see `_stop_or_quit`
    except WorkerFailedError as error:
        print(f"weft worker: {error}", file=sys.stderr)
        return error.exit_status
    except ServiceError as error:
        print(f"weft worker: {error}", file=sys.stderr)
        return Exit.ERROR
    except OSError as error:
        print(f"weft worker: {error.filename or ''} {error.strerror}", file=sys.stderr)
        return Exit.ERROR
    return Exit.STOPPED


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is at hand, as in vLLM's environments; it is no dependency of the worker's."""
    try:
        return importlib.import_module("uvloop").new_event_loop  # type: ignore[no-any-return]
    except ImportError:
        return None


async def _run(config: WorkerConfig) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop_or_quit, stopping)
    await serve(config, stopping)


def _stop_or_quit(stopping: asyncio.Event) -> None:
    """The first signal drains; a second one, from somebody in a hurry, cancels everything."""
    if stopping.is_set():
        for task in asyncio.all_tasks():
            task.cancel()
    stopping.set()


def parse(argv: Sequence[str]) -> tuple[WorkerConfig, str]:
    """Reads the command line. Raises ARGUMENT_INVALID, or exits as argparse does."""
    options = _parser().parse_args(argv)
    endpoint_name(options.endpoint, param="--endpoint")
    routers = tuple(options.router or ["127.0.0.1:7000"])
    for router in routers:
        check_router(router)
    url, command = options.vllm_url, _words(options.vllm_command or "")
    if command and not url:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        if not any("{port}" in word for word in command):
            _parser().error("--vllm-command must contain {port}, or --vllm-url must tell where its server will listen")
        command = tuple(word.replace("{port}", str(port)) for word in command)
    if not url:
        _parser().error("give --vllm-url, --vllm-command, or both")
    if not _is_server_url(url):
        _parser().error(f"--vllm-url must be http://HOST:PORT, https://HOST:PORT or unix:/PATH, not {url!r}")
    otlp = options.otlp_address
    if otlp is None and any(PLACEHOLDER in word for word in command):
        otlp = ANY_PORT
    config = WorkerConfig(
        routers=routers,
        endpoint=options.endpoint,
        key_file=options.key_file or default_home() / "worker.key",
        vllm_url=url,
        enrolment_token_file=options.enrolment_token_file,
        way=Way(options.router_ca, options.proxy, options.tls_certificate_file, options.tls_key_file),
        vllm_command=command,
        vllm_log=options.vllm_log,
        vllm_restarts=options.vllm_restarts,
        max_calls=options.max_calls,
        grace=options.grace,
        attach_timeout=options.attach_timeout,
        otlp_address=otlp or "",
        job_id=options.job_id,
        job_end=options.job_end,
        drain_before=options.drain_before or 2 * options.grace,
        bounds=Bounds(options.first_byte_timeout, options.stall_timeout, options.total_timeout).inner(),
    )
    return config, options.log_level


def _words(command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError as error:
        _parser().error(f"--vllm-command cannot be split into words: {error}")


def _is_server_url(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        named = bool(parts.path if parts.scheme == "unix" else parts.hostname and parts.port != 0)
    except ValueError:  # of the port
        return False
    return parts.scheme in ("http", "https", "unix") and named


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="weft worker",
        description="Attaches one vLLM to the mesh: dials the routers, which then send it calls.",
    )
    add = parser.add_argument
    add("--vllm-url", metavar="URL", help="the vLLM to attach: http://host:port or unix:/path/to/socket")
    add(
        "--vllm-command",
        metavar="COMMAND",
        help="launch this vLLM and keep it running; {port} stands for a free port, unless --vllm-url is given too; "
        "{otlp} in `--otlp-traces-endpoint {otlp}` for where this worker takes its spans",
    )
    add("--vllm-log", metavar="FILE", type=Path, help="where the launched vLLM's output goes (default: with ours)")
    add(
        "--vllm-restarts",
        metavar="N",
        type=_positive(int),
        help="end when the launched vLLM has failed N times in a row (default: never, start it again)",
    )
    add(
        "--otlp-address",
        metavar="HOST:PORT",
        type=_host_and_port,
        help="where to take the spans of a vLLM, by OTLP over gRPC, for the routers to export (default: nowhere; any "
        "port of loopback for a --vllm-command with {otlp})",
    )
    add(
        "--router",
        metavar="ROUTER",
        action="append",
        help="a router, host:port, or https://host[:port] by TLS; may be repeated (default: 127.0.0.1:7000)",
    )
    add("--router-ca", metavar="FILE", type=Path, help="whose certificates routers show (default: the system's list)")
    add("--tls-certificate-file", metavar="FILE", type=Path, help="what is shown to routers that demand a certificate")
    add("--tls-key-file", metavar="FILE", type=Path, help="that certificate's key")
    add(
        "--proxy",
        metavar="URL",
        default="",
        help="the HTTP proxy on the way to https routers, or none (default: the environment's https_proxy, no_proxy)",
    )
    add(
        "--attach-timeout",
        metavar="SECONDS",
        type=_positive(float),
        help="end if no router takes this worker within so long (default: try for ever)",
    )
    add(
        "--endpoint",
        metavar="NAME",
        default="clusters/local/endpoints/vllm",
        help="the endpoint to serve (default: %(default)s)",
    )
    shown = parser.add_mutually_exclusive_group().add_argument
    shown("--key-file", metavar="FILE", type=Path, help="the worker's key (default: $WEFT_HOME/worker.key)")
    shown("--enrolment-token-file", metavar="FILE", type=Path, help="a token that admits this worker, once")
    add("--job-id", metavar="ID", default="", help="the scheduler's job that this runs in")
    add("--job-end", metavar="UNIX_SECONDS", type=_positive(float, 1e11), help="when the scheduler ends the job")
    add(
        "--drain-before",
        metavar="SECONDS",
        type=_positive(float),
        help="take no calls so long before the job's end, and end then (default: twice the grace)",
    )
    add("--max-calls", metavar="N", type=_positive(int), default=1024, help="calls at once (default: %(default)s)")
    for name, default, text in (
        ("--grace", 30.0, "for open calls to finish after SIGTERM"),
        ("--first-byte-timeout", 600.0, "to the first byte of an answer"),
        ("--stall-timeout", 120.0, "between two bytes of an answer"),
        ("--total-timeout", 3600.0, "for a whole answer"),
    ):
        add(name, metavar="SECONDS", type=_positive(float), default=default, help=f"{text} (default: %(default)s)")
    add("--log-level", choices=("debug", "info", "warning", "error"), default="info", help="(default: %(default)s)")
    return parser


def _host_and_port(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) >= 2**16:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text


class _positive:  # noqa: N801 - argparse shows the name of a type in its errors
    """A number above zero, for argparse; and below infinity, and what the fields of messages hold."""

    def __init__(self, number: type[int] | type[float], below: float = 2**31) -> None:
        self._number = number
        self._below = below

    def __call__(self, text: str) -> int | float:
        with contextlib.suppress(ValueError):
            if 0 < (value := self._number(text)) < self._below:
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above zero")


class _Formatter(logging.Formatter):
    """Ends a line that is said in the course of a call with the ids of its trace."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        ids = "".join(f" {name}={value}" for name, value in log_fields(current.get()).items())
        return super().formatMessage(record) + ids


def _set_up_logging(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=os.environ.get("WEFT_LOG_LEVEL", level).upper(), handlers=[handler])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
