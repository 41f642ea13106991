"""Checks what a template gives: the configuration of a user endpoint, and the script of its jobs."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from globus_compute_endpoint.endpoint.config.utils import load_config_yaml

from endpoints.checking.core import CoreConfig
from endpoints.checking.faults import faults_of, unknown_in_user_config
from endpoints.checking.finding import Finding, nearest
from endpoints.checking.places import line_of_key, line_with
from endpoints.checking.template import Template

NEEDED = {
    "worker": ("start-worker", "inference", "probe"),
    "batch": ("batch", "probe"),
    "queue": ("queue-status", "probe"),
}


class UserConfig:
    """A rendering of the template: `findings` of its check."""

    def __init__(self, core: CoreConfig, template: Template, functions: Path | None) -> None:
        self._core = core
        self._template = template
        self._functions = functions
        self._config: dict[str, Any] = {}
        self.findings = list(self._check())

    def _check(self) -> Iterator[Finding]:
        try:
            text = self._template.render(self._template.longest())
            config = yaml.safe_load(text)
        except Exception:
            return  # the template's own check has told it
        if not isinstance(config, dict) or not isinstance(config.get("engine"), dict):
            yield self._found(("engine",), "there is none, so no task can run", "render the endpoint anew")
            return
        self._config = config
        unknown = list(unknown_in_user_config(config))
        for way, known in unknown:
            yield self._found(way, "is not known", nearest(way[-1], known))
        if not unknown:
            yield from self._load(text)
        yield from self._check_idle()
        yield from self._check_engine()
        yield from self._check_script()
        yield from self._check_functions()

    def _found(self, way: tuple[str, ...], problem: str, remedy: str, *, warning: bool = False) -> Finding:
        line = line_of_key(self._template.text, way)
        return Finding(self._template.name, line, ".".join(way), problem, remedy, warning)

    @property
    def _provider(self) -> dict[str, Any]:
        provider = self._config["engine"].get("provider")
        return provider if isinstance(provider, dict) else {}

    @property
    def _worker_init(self) -> str:
        return str(self._provider.get("worker_init") or "")

    @property
    def _purpose(self) -> str:
        if ";batch=1" in self._worker_init:
            return "batch"
        if "WEFT_VLLM_COMMAND" in self._worker_init:
            return "worker"
        return "queue" if "WEFT_SCHEDULER" in self._worker_init else ""

    def _load(self, text: str) -> Iterator[Finding]:
        address = self._config["engine"].get("address")
        interface = address.get("ifname") if isinstance(address, dict) else None
        if isinstance(interface, str) and interface not in [name for _, name in socket.if_nameindex()]:
            problem = f"this machine has no interface {interface}"
            yield self._found(("engine", "address", "ifname"), problem, "check where the agent will run", warning=True)
            engine = {**self._config["engine"], "address": "127.0.0.1"}
            text = yaml.safe_dump({**self._config, "engine": engine})
        try:
            loaded = load_config_yaml(text)
        except Exception as error:
            for way, problem in faults_of(error):
                yield self._found(way or self._guess(problem), problem, "correct the value")
            return
        if self._core.tree.get("high_assurance") is True:
            try:
                loaded.engine.assert_ha_compliant()
            except Exception as error:
                problem = " ".join(str(error).split())
                yield self._found(("engine", "encrypted"), problem, "set encrypted: true")

    def _guess(self, problem: str) -> tuple[str, ...]:
        """The way to the setting that an error's words name, by itself, by its value or by its type."""
        for way, value in sorted(_leaves(self._config), key=lambda leaf: -len(leaf[0])):
            if re.search(rf"\b{re.escape(way[-1])}\b", problem) or (isinstance(value, str) and f"'{value}'" in problem):
                return way
        return ("engine",)

    def _check_idle(self) -> Iterator[Finding]:
        soft = self._config.get("idle_heartbeats_soft", 0)
        hard = self._config.get("idle_heartbeats_hard", 5760)
        period = self._config.get("heartbeat_period", 30)
        if not all(isinstance(number, int | float) for number in (soft, hard, period)) or soft <= 0:
            return
        lasts = hard * max(period, 5)
        walltime = _seconds(self._provider.get("walltime"))
        if walltime is None and self._purpose == "worker":
            problem = f"ends the user endpoint after {lasts:.0f} s although its worker, which has no walltime, runs on"
            yield self._found(("idle_heartbeats_hard",), problem, "set idle_heartbeats_soft: 0")
        elif walltime is not None and lasts <= walltime:
            problem = (
                f"ends the user endpoint after {lasts:.0f} s, and jobs may last {walltime} s: it counts while tasks run"
            )
            remedy = (
                f"set it above {walltime // max(period, 5):.0f}, with the time in the queue, or idle_heartbeats_soft: 0"
            )
            yield self._found(("idle_heartbeats_hard",), problem, remedy)

    def _check_engine(self) -> Iterator[Finding]:
        engine, provider = self._config["engine"], self._provider
        if self._purpose != "worker":
            return
        slots = engine.get("max_workers_per_node")
        if slots is not None and isinstance(slots, int) and slots < 2:
            problem = "the task that holds the worker takes the only slot, so no other runs beside it"
            yield self._found(("engine", "max_workers_per_node"), problem, "set it to 2 or more")
        if provider.get("max_blocks", 1) > 1:
            problem = (
                "each slot of Weft has a job of its own; with more blocks a task may run on another node than its vLLM"
            )
            yield self._found(("engine", "provider", "max_blocks"), problem, "set it to 1", warning=True)
        launcher = provider.get("launcher")
        kind = launcher.get("type") if isinstance(launcher, dict) else None
        if provider.get("nodes_per_block", 1) > 1 and kind != "SimpleLauncher":
            problem = "starts a manager on each node, and tasks run on any of them, not beside vLLM"
            way = ("engine", "provider", "launcher")
            yield self._found(way, problem, "set type: SimpleLauncher; launch_vllm.sh starts Ray on the other nodes")

    def _check_script(self) -> Iterator[Finding]:
        way = ("engine", "provider", "worker_init")
        complaint = _syntax(self._worker_init)
        if complaint:
            yield self._found(way, f"is no shell script: {complaint}", "mend it")
            return
        command = _exported(self._worker_init, "WEFT_VLLM_COMMAND")
        if command is None:
            return
        at = line_with(self._template.text, "WEFT_VLLM_COMMAND")
        name = self._template.name
        try:
            words = shlex.split(command)
        except ValueError as error:
            yield Finding(name, at, "WEFT_VLLM_COMMAND", f"cannot be split into words: {error}", "quote it anew")
            return
        if not any("{port}" in word for word in words):
            problem = "does not say where vLLM listens"
            yield Finding(name, at, "WEFT_VLLM_COMMAND", problem, "put {port} where vLLM's port goes")
        if words and words[0].startswith("/"):
            yield from self._check_launch_script(Path(words[0]), at)

    def _check_launch_script(self, path: Path, at: int) -> Iterator[Finding]:
        field, here = "WEFT_VLLM_COMMAND", self._core.folder / path.name
        if not path.exists() and not here.exists():
            yield Finding(self._template.name, at, field, f"{path} does not exist", "render the endpoint anew")
            return
        if not path.exists():
            remedy = f"copy it to {path.parent}, or render it for another place with --installed-at"
            yield Finding(self._template.name, at, field, f"the folder is to be at {path.parent}", remedy, warning=True)
            path = here
        if not path.stat().st_mode & 0o111:
            yield Finding(path.name, 0, "", "is not executable", f"chmod +x {path.name}")
        complaint = _syntax(path.read_text())
        if complaint:
            yield Finding(path.name, 0, "", f"is no shell script: {complaint}", "render the endpoint anew")

    def _check_functions(self) -> Iterator[Finding]:
        of_core, of_template = self._core.tree.get("allowed_functions"), self._config.get("allowed_functions")
        if of_core is not None and of_template is not None:
            problem = "is ignored, because config.yaml has one too"
            yield self._found(("allowed_functions",), problem, "remove it from one of the two files")
        allowed = of_core if of_core is not None else of_template
        if allowed is None:
            problem, remedy = "is missing: any function may run", "render with --functions functions.yaml"
            yield Finding("config.yaml", 0, "allowed_functions", problem, remedy, warning=True)
            return
        if self._functions is None or not isinstance(allowed, list):
            return
        registered = (yaml.safe_load(self._functions.read_text()) or {}).get("functions", {})
        file, line = (
            ("config.yaml", line_with(self._core.text, "allowed_functions"))
            if of_core is not None
            else (self._template.name, line_with(self._template.text, "allowed_functions"))
        )
        # A template may allow one user more than another: here counts what it allows anybody.
        found = set(map(str, allowed)) if of_core is not None else set(_UUID.findall(self._template.text))
        for name in NEEDED.get(self._purpose, ()):
            versions = [version["uuid"] for version in registered.get(name, [])]
            if not versions:
                remedy = "register it: weft functions register"
                yield Finding(file, line, name, f"is not in {self._functions}", remedy)
            elif not set(versions) & found:
                remedy = "render with --functions " + str(self._functions)
                yield Finding(file, line, name, f"no version of it is allowed ({versions[0]} is the newest)", remedy)


_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _leaves(tree: Any, way: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*way, str(key)))
        else:
            yield (*way, str(key)), value


def _seconds(walltime: Any) -> int | None:
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d)", str(walltime))
    return int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3]) if match else None


def _syntax(script: str) -> str | None:
    """What bash has against a script, without running it."""
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    return None if checked.returncode == 0 else " ".join(checked.stderr.split())


def _exported(script: str, name: str) -> str | None:
    """The value of `export NAME=VALUE` in a script."""
    try:
        words = shlex.split(script, comments=True)
    except ValueError:
        return None
    return next((word[len(name) + 1 :] for word in words if word.startswith(f"{name}=")), None)
