"""The whole chain: a mesh with a launcher, whose endpoints are real ones of Globus Compute."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from weft.launcher.v1 import launcher_pb2 as pb
from weft.launcher.v1 import launcher_pb2_grpc

from services.rpc.channel import bearer, dial
from tests.globus.endpoint import EndpointAgent
from tests.globus.hosted import Hosted
from tests.globus.recipes import WEFT
from tests.testing.mesh import SERVICES, Mesh
from tests.testing.processes import SOON

CLUSTER = "clusters/hpc"
WITH_LAUNCHER = (*SERVICES, "launcher")
QUICK = {"tick_s": 0.2, "lease_life_s": 2.0, "first_backoff_s": 1.0, "lost_after_s": 20.0, "task_poll_s": 0.5}
QUICK |= {"worker_grace_s": 10.0, "attach_timeout_s": 20.0, "queue_poll_s": 1.0, "queue_age_s": 0.5}
COLD = 180.0
"""Seconds in which a worker must have come, on two cores that do other things too; the real vLLM takes 60."""

OVER = (pb.START_STATE_GONE, pb.START_STATE_FAILED)


class Chain:
    """A mesh, and what is asked of it. Its endpoints are in `CLUSTER`."""

    def __init__(self, mesh: Mesh, hosted: Hosted, functions: Path) -> None:
        self.mesh, self.hosted = mesh, hosted
        self._functions = functions
        self._endpoints = 0

    async def begin(self, **cluster: str) -> None:
        """Puts the functions and the cluster into the registry; `cluster` are options of `weft clusters create`."""
        await self.weft("functions", "register", "--file", str(self._functions))
        await self.weft("clusters", "create", CLUSTER, *_options(cluster))

    async def endpoint(self, name: str, agent: EndpointAgent, model: str, **options: str | int | bool) -> str:
        """Makes an endpoint, of one model, whose workers come by this agent, and returns when the router knows it;
        `options` are those of `weft endpoints create`.
        """
        full = f"{CLUSTER}/endpoints/{name}"
        await self.weft("endpoints", "create", full, "--globus", agent.id, "--model", model, *_options(options))
        self._endpoints += 1
        startable = "weft_router_startable_endpoints"
        await self.mesh.until(
            lambda: self.mesh.router.metric(startable), lambda known: known == self._endpoints, "the router knows it"
        )
        return full

    async def weft(self, *arguments: str, code: int = 0) -> str:
        """What a `weft` command prints that speaks to this mesh."""
        process = await asyncio.create_subprocess_exec(
            *WEFT,
            *arguments,
            env={**os.environ, **self.mesh.environ, "COLUMNS": "200"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await process.communicate())[0].decode()
        assert process.returncode == code, f"weft {' '.join(arguments)} ended with {process.returncode}:\n{output}"
        return output

    @asynccontextmanager
    async def launcher(self) -> AsyncIterator[tuple[launcher_pb2_grpc.LauncherServiceStub, dict[str, Any]]]:
        """The launcher's stub, and what each call needs beside its request."""
        call = {"metadata": bearer((self.mesh.home / "service.key").read_text().strip()), "timeout": SOON}
        async with dial(self.mesh.address("launcher")) as channel:
            yield launcher_pb2_grpc.LauncherServiceStub(channel), call

    async def starts(self) -> list[pb.Start]:
        """All starts, the first first; none while the launcher is away."""
        async with self.launcher() as (stub, call):
            try:
                answer = await stub.ListStarts(pb.ListStartsRequest(show_ended=True), **call)
            except grpc.aio.AioRpcError:
                return []
        return list(reversed(answer.starts))

    def submitted(self, endpoint: str) -> list[dict[str, Any]]:
        """The tasks that were submitted to start workers of an endpoint, as the service tells them."""
        tasks = self.hosted.tasks("start_worker")
        return [task for task in tasks if task["user_endpoint_config"].get("weft_endpoint") == endpoint]

    async def until_states(self, *states: str, seconds: float = COLD) -> list[pb.Start]:
        """Waits until the starts have these states, the first start's first."""
        wanted = [pb.StartState.Value(f"START_STATE_{state.upper()}") for state in states]
        seen: list[pb.Start] = await self.mesh.until(
            self.starts,
            lambda starts: [start.state for start in starts] == wanted,
            f"the starts are {', '.join(states) or 'none'}",
            seconds,
        )
        return seen

    async def stop_all(self) -> None:
        """Gives all starts up, and waits until their workers have ended; for the end of a test."""
        with contextlib.suppress(grpc.aio.AioRpcError, AssertionError, TimeoutError):
            async with asyncio.timeout(20), self.launcher() as (stub, call):
                while alive := [start for start in await self.starts() if start.state not in OVER]:
                    for start in alive:
                        await stub.StopStart(pb.StopStartRequest(name=start.name), **call)
                    await asyncio.sleep(0.2)

    def chat(self, model: str, tokens: int = 8, **settings: Any) -> Any:
        """A streamed chat with OpenAI's client, to be awaited, then iterated."""
        return self.mesh.openai(timeout=COLD).chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Go on."}],
            max_tokens=tokens,
            stream=True,
            **settings,
        )


async def words_of(stream: Any) -> str:
    """All that a streamed chat says."""
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


def _options(options: dict[str, Any]) -> list[str]:
    """Keywords as options of a command: `max_workers=2` is `--max-workers 2`, `keep_warm=True` is `--keep-warm`."""
    words: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        words += [flag] if value is True else [flag, str(value)]
    return words
