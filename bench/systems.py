"""What is measured, each part a process on loopback: the simulators, and a mesh in each of its two modes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench import proc
from bench.load import Target
from services.cli.parts import WEFT, simulated_vllm, to_environ
from services.cli.ports import free_port
from services.runtime.child import Child, ChildError, ChildSpec, tail
from services.runtime.supervisor import Supervisor

INTER_TOKEN_S = 0.02

#: The models, each with a simulator of its own: what it is told.
SIMULATORS: Mapping[str, Sequence[str]] = {
    # Answers at once: the mesh is all that takes time.
    "bench-fast": ("--ttft-s", "0", "--inter-token-s", "0"),
    "bench-paced": ("--ttft-s", "0.02", "--inter-token-s", str(INTER_TOKEN_S)),
    # Sends one token, and then nothing.
    "bench-silent": ("--ttft-s", "0", "--inter-token-s", "3600"),
}

Settings = Mapping[str, Mapping[str, Any]]
"""Of weft.yaml, by section and key."""

#: Not every trace, as `weft up` keeps them by itself: what a site would choose.
_USUAL: Settings = {"metrics": {"port": 0}, "tracing": {"local": True, "ratio": 0.01}}

_START_S = 60.0
_GRACE_S = 20.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class System:
    """A way to the models. `parts` are the process ids whose CPU time counts, by the name of their figures."""

    name: str
    #: The base URL of each model, without `/v1`.
    urls: Mapping[str, str]
    key: str | None = None
    parts: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def target(self, model: str) -> Target:
        """For the load client."""
        return Target(self.urls[model], model, self.key)


@contextlib.asynccontextmanager
async def running(home: Path) -> AsyncIterator[list[System]]:
    """Direct access, the mesh in separate processes and the mesh in one, ready; all ends with the `async with`.

    Raises `ChildError` if a mesh ends, or does not have its models in time.
    """
    async with Supervisor(grace=_GRACE_S, tell=print) as supervisor:
        direct = await _simulators(supervisor, home)
        vllms = list(direct.urls.values())
        separate = await _mesh(supervisor, home / "separate", vllms)
        one_process = await _mesh(supervisor, home / "one-process", vllms, "--one-process")
        yield [direct, separate, one_process]


@contextlib.asynccontextmanager
async def watched(home: Path, *settings: Settings) -> AsyncIterator[list[System]]:
    """A mesh in separate processes for each of these settings, ready; all ends with the `async with`. Raises as
    `running` does.
    """
    async with Supervisor(grace=_GRACE_S, tell=print) as supervisor:
        vllms = list((await _simulators(supervisor, home)).urls.values())
        yield [
            await _mesh(supervisor, home / f"watched-{number}", vllms, settings=own)
            for number, own in enumerate(settings)
        ]


async def _simulators(supervisor: Supervisor, home: Path) -> System:
    urls = {}
    for model, flags in SIMULATORS.items():
        port = free_port()
        urls[model] = f"http://127.0.0.1:{port}"
        vllm = simulated_vllm("--model", model, "--max-num-seqs", "10000", *flags)
        command = [part.format(port=port) for part in vllm.command]
        await supervisor.start(ChildSpec(model, command, home / f"{model}.log", announces=False))
    return System("direct", urls)


async def _mesh(
    supervisor: Supervisor, home: Path, vllms: Sequence[str], *flags: str, settings: Settings = _USUAL
) -> System:
    """A mesh as `weft up` starts it, one worker at each simulator, on ports that nobody else has."""
    port = free_port()
    command = [*WEFT, "up", "--port", str(port), *flags]
    for url in vllms:
        command += ["--vllm-url", url]
    address = {service: {"address": f"127.0.0.1:{free_port()}"} for service in ("auth", "registry", "router")}
    environ = {"WEFT_HOME": str(home), **to_environ({**address, **settings})}
    child = await supervisor.start(ChildSpec(home.name, command, home / "up.log", environ, announces=False))
    url = f"http://127.0.0.1:{port}"
    await _until_ready(child, url, home / "dev.key")
    return System(
        home.name.replace("-", " "),
        dict.fromkeys(SIMULATORS, url),
        (home / "dev.key").read_text().strip(),
        _parts(child.pid, one_process=bool(flags)),
    )


async def _until_ready(child: Child, url: str, key: Path) -> None:
    """Returns when the mesh lists every model. Raises `ChildError` if it ends before."""
    models, death = asyncio.ensure_future(_all_models(url, key)), asyncio.ensure_future(child.died())
    try:
        await asyncio.wait({models, death}, timeout=_START_S, return_when=asyncio.FIRST_COMPLETED)
        if death.done():
            await death
        if not models.done():
            raise ChildError(
                f"{child.spec.name} had not all models within {_START_S:g} s.\n{tail(child.spec.log_file)}"
            )
        await models
    finally:
        for task in (models, death):
            task.cancel()
        await asyncio.gather(models, death, return_exceptions=True)


async def _all_models(url: str, key: Path) -> None:
    async with aiohttp.ClientSession() as session:
        seen: set[str] = set()
        while not seen.issuperset(SIMULATORS):
            await asyncio.sleep(_POLL_S)
            with contextlib.suppress(aiohttp.ClientConnectionError, FileNotFoundError):  # it is just starting
                async with session.get(f"{url}/v1/models", headers=_authorization(key)) as answer:
                    if answer.status == 200:
                        seen = {model["id"] for model in (await answer.json())["data"]}


def _authorization(key: Path) -> dict[str, str]:
    return {"authorization": f"Bearer {key.read_text().strip()}"}


def _parts(up: int, *, one_process: bool) -> dict[str, list[int]]:
    """The processes of a mesh. With one process, `weft up` itself holds facade and router, and registry and auth."""
    parts: dict[str, list[int]] = {"facade and router": [up]} if one_process else {}
    commands = {pid: proc.command(pid) for pid in proc.children(up)}
    for part in ("facade", "router", "worker"):
        if pids := [pid for pid, words in commands.items() if part in words]:
            parts[part] = pids
    return parts
