"""A stand-in for Globus Compute, for tests of the launcher: what it is asked to run, it runs on this machine.

`FakeGlobus` lives in the test and outlives the launchers that use it, as the hosted service does. Launchers reach it by
HTTP: `launcher_part` makes one whose tasks go there. The functions are the real ones of `compute_functions/`, each task
in a process of its own. No allow-list, no queue but the one that a test makes with `hold`.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web

from services.globus.control import EndpointStatus
from services.globus.errors import GlobusError, Kind
from services.launcher.config import LauncherConfig
from services.launcher.tasks import TaskRunner
from services.runtime.child import ChildSpec
from services.runtime.home import log_file
from tests.testing.mesh import Mesh
from tests.testing.processes import SOON, Part

ADDRESS = "WEFT_TEST_GLOBUS"
ENDPOINT_UUID = "4b116d3c-1703-4f8f-9f6f-39921e5864df"
_RUN = "import json, sys; from compute_functions.{0} import {0}; print(json.dumps({0}(json.load(sys.stdin))))"


@dataclass(eq=False)
class FakeTask:
    """A task, from its submission on. `process` once it runs."""

    id: str
    function: str
    payload: dict[str, Any]
    config: dict[str, Any]
    released: asyncio.Event
    answer: dict[str, Any] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    process: asyncio.subprocess.Process | None = None


class FakeGlobus:
    """The service and its one endpoint. A function's UUID is the name of its module. To be entered."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.tasks: list[FakeTask] = []
        self.is_down = False
        self.results: dict[str, Callable[[dict[str, Any]], Any]] = {}
        """What functions answer that are not to run, by their names."""
        self._folder = folder
        self._environ = environ
        self._released = asyncio.Event()
        self._released.set()
        self._closing = False
        self._running: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None
        self.address = ""

    def started(self, function: str = "start_worker") -> list[FakeTask]:
        """The tasks of a function, in order."""
        return [task for task in self.tasks if task.function == function]

    def hold(self) -> None:
        """From now on, tasks wait."""
        self._released = asyncio.Event()

    def release(self) -> None:
        """The tasks that wait run."""
        self._released.set()

    def deliver_again(self, task: FakeTask) -> FakeTask:
        """Runs a task a second time, as a service may that lost sight of the first."""
        return self._submit(task.function, task.payload, task.config)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.add_routes([web.post("/tasks", self._post), web.get("/tasks/{id}", self._get)])
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        for task in self.tasks:
            task.released.set()
            _signal(task, signal.SIGTERM)
        if self._running:
            await asyncio.wait(self._running, timeout=SOON)
        for task in self.tasks:
            _signal(task, signal.SIGKILL)
        # Whoever leaves a process unawaited has it collected when its loop is closed.
        await asyncio.gather(*self._running, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()

    def _submit(self, function: str, payload: dict[str, Any], config: dict[str, Any]) -> FakeTask:
        task = FakeTask(f"task-{len(self.tasks) + 1}", function, payload, config, self._released)
        self.tasks.append(task)
        running = asyncio.ensure_future(self._run(task))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return task

    async def _run(self, task: FakeTask) -> None:
        await task.released.wait()
        if self._closing:
            return
        try:
            if (make := self.results.get(task.function)) is not None:
                task.answer = {"result": make(task.payload)}
                return
            log = self._folder / f"{task.id}.log"
            with log.open("ab") as errors:
                task.process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-c", _RUN.format(task.function)),
                    env={**os.environ, "WEFT_RUN_DIR": str(self._folder / "run"), **self._environ},
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=errors,
                )
            out, _ = await task.process.communicate(json.dumps(task.payload).encode())
            try:
                task.answer = {"result": json.loads(out)}
            except ValueError:
                task.answer = {"error": f"the task's process ended with {task.process.returncode}"}
        finally:
            task.ended.set()

    async def _post(self, request: web.Request) -> web.Response:
        if self.is_down:
            return web.Response(status=503)
        asked = await request.json()
        task = self._submit(asked["function"], asked["payload"], asked["config"])
        return web.json_response({"id": task.id})

    async def _get(self, request: web.Request) -> web.Response:
        if self.is_down:
            return web.Response(status=503)
        task = next(task for task in self.tasks if task.id == request.match_info["id"])
        if request.query.get("wait"):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await task.ended.wait()
        return web.json_response(task.answer)


def _signal(task: FakeTask, number: signal.Signals) -> None:
    if task.process is not None and task.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            task.process.send_signal(number)


@dataclass(frozen=True, slots=True)
class _State:
    pending: bool
    result: Any = None
    error: GlobusError | None = None


class _RemoteTasks:
    """A `TaskRunner` whose tasks go to the `FakeGlobus` at an address."""

    def __init__(self, address: str) -> None:
        self._http = aiohttp.ClientSession(address)

    async def run(
        self,
        credentials: str,
        endpoint_uuid: str,
        function_uuid: str,
        payload: Mapping[str, Any],
        user_endpoint_config: Mapping[str, Any] | None = None,
        submitted: Callable[[str], None] = lambda task_id: None,
        happened: Callable[[str], None] = lambda what: None,
    ) -> Any:
        asked = {"function": function_uuid, "payload": payload, "config": user_endpoint_config or {}}
        task = (await self._ask("POST", "/tasks", json=asked))["id"]
        submitted(task)
        while True:
            try:
                state = await self.task_state(credentials, task, wait="1")
            except GlobusError:
                await asyncio.sleep(0.1)
                continue
            if state.error is not None:
                raise state.error
            if not state.pending:
                return state.result

    async def allowed_functions(self, credentials: str, endpoint_uuid: str) -> frozenset[str] | None:
        return None

    async def endpoint_status(self, credentials: str, endpoint_uuid: str) -> EndpointStatus:
        return EndpointStatus(online=True)

    async def task_state(self, credentials: str, task_id: str, wait: str = "") -> _State:
        answer = await self._ask("GET", f"/tasks/{task_id}", params={"wait": wait})
        if answer is None:
            return _State(pending=True)
        if "error" in answer:
            return _State(pending=False, error=GlobusError(Kind.TASK_FAILED, answer["error"]))
        return _State(pending=False, result=answer["result"])

    async def close(self) -> None:
        await self._http.close()

    async def _ask(self, method: str, path: str, **how: Any) -> Any:
        try:
            async with self._http.request(method, path, **how) as response:
                response.raise_for_status()
                return await response.json()
        except aiohttp.ClientError as error:
            raise GlobusError(Kind.SERVICE_UNAVAILABLE, f"Globus Compute cannot be reached: {error}.") from error


def open_tasks(config: LauncherConfig) -> TaskRunner:
    """The tasks of a launcher that a test has started."""
    return _RemoteTasks(os.environ[ADDRESS])


def launcher_part(mesh: Mesh, globus: FakeGlobus, name: str = "launcher", environ: Mapping[str, str] = {}) -> Part:
    """A launcher of this mesh whose tasks go to `globus`; not started yet."""
    command = (sys.executable, "-m", "tests.testing.fake_globus")
    settings = {**mesh.environ, ADDRESS: globus.address, **environ}
    return Part(ChildSpec(name, command, log_file(mesh.home, name), settings))


def _main(ready_fd: int) -> int:
    from services.cli.settings import load
    from services.launcher.main import serve
    from services.runtime.logging import LogConfig
    from services.runtime.metrics import MetricsConfig
    from services.runtime.service import run_service
    from services.runtime.telemetry.config import TracingConfig

    config = load()
    section = config.section("launcher", LauncherConfig)
    return run_service(
        "launcher",
        partial(serve, section, open_tasks=open_tasks),
        home=config.home,
        log=config.section("log", LogConfig),
        metrics=MetricsConfig(port=0),
        tracing=config.section("tracing", TracingConfig),
        ready_fd=ready_fd,
    )


if __name__ == "__main__":
    sys.exit(_main(int(sys.argv[sys.argv.index("--ready-fd") + 1])))
