"""The launcher with real auth, registry, router and workers. Globus alone is a stand-in, which really runs the
functions.
"""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from weft.launcher.v1 import launcher_pb2 as pb
from weft.launcher.v1 import launcher_pb2_grpc
from weft.registry.v1 import registry_pb2, resources_pb2

from services.cli.parts import WEFT, simulated_vllm
from services.rpc.channel import bearer, dial
from tests.testing.fake_globus import ENDPOINT_UUID, FakeGlobus, launcher_part
from tests.testing.mesh import Mesh, StartMesh
from tests.testing.processes import SOON, Part
from tests.testing.up import Up

ENDPOINT = "clusters/hpc/endpoints/sim"
QUICK = {"tick_s": 0.1, "lease_life_s": 1.0, "first_backoff_s": 0.2, "lost_after_s": 20.0, "task_poll_s": 0.2}


@dataclass
class Site:
    """A mesh without workers, the stand-in for Globus, and launchers."""

    mesh: Mesh
    globus: FakeGlobus
    launchers: list[Part]

    async def launch(self, **settings: Any) -> Part:
        """One more launcher on the same database, at another address."""
        name = f"launcher-{len(self.launchers) + 1}"
        environ = {"WEFT_LAUNCHER__ADDRESS": "127.0.0.1:0"} if self.launchers else {}
        environ |= {f"WEFT_LAUNCHER__{key.upper()}": str(value) for key, value in settings.items()}
        part = launcher_part(self.mesh, self.globus, name, environ)
        self.launchers.append(part)
        await part.start()
        return part

    async def create(self, **policy: Any) -> None:
        """The endpoint, with a launch policy."""
        mode = policy.pop("call_mode", resources_pb2.CALL_MODE_SESSION)
        launch = resources_pb2.LaunchPolicy(
            start_worker=resources_pb2.GlobusFunction(endpoint_uuid=ENDPOINT_UUID, function_uuid="start_worker"),
            **policy,
        )
        backend = resources_pb2.GlobusBackend(
            launch=launch,
            call_mode=mode,
            inference=resources_pb2.GlobusFunction(endpoint_uuid=ENDPOINT_UUID, function_uuid="inference"),
        )
        queue = resources_pb2.GlobusFunction(endpoint_uuid=ENDPOINT_UUID, function_uuid="queue_status")
        cluster = resources_pb2.Cluster(name="clusters/hpc", queue_status=queue)
        model = resources_pb2.ModelBinding(model="sim-model", served_model="sim-model")
        endpoint = resources_pb2.Endpoint(name=ENDPOINT, globus=backend, models=[model])
        async with self.mesh.stubs() as stubs:
            apply = registry_pb2.ApplyRequest(clusters=[cluster], endpoints=[endpoint])
            await stubs.registry.Apply(apply, **stubs.call)

    @asynccontextmanager
    async def stub(self, launcher: int = -1, key: str | None = None) -> AsyncIterator[Any]:
        """The launcher's stub, each call with a key."""
        service_key = (self.mesh.home / "service.key").read_text().strip()
        async with dial(self.launchers[launcher].address) as channel:
            yield _Keyed(launcher_pb2_grpc.LauncherServiceStub(channel), key or service_key)

    async def want(self, waiting: int = 1, launcher: int = -1) -> pb.EndpointState:
        """Says that calls wait, once the launcher knows the endpoint."""

        async def say() -> pb.EndpointState | None:
            async with self.stub(launcher) as stub:
                try:
                    answer: pb.WantResponse = await stub.Want(
                        pb.WantRequest(endpoint=ENDPOINT, router="test", waiting=waiting)
                    )
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.NOT_FOUND:
                        raise
                    return None
            return answer.state

        state = await self.mesh.until(say, lambda state: state is not None, "the launcher knows the endpoint")
        assert isinstance(state, pb.EndpointState)
        return state

    @asynccontextmanager
    async def wanting(self, waiting: int = 1) -> AsyncIterator[None]:
        """Says that calls wait for as long as the block runs, as routers do: what is not said again is forgotten, and
        whoever is idle then is stopped.
        """
        over = asyncio.Event()

        async def say_on() -> None:
            while not over.is_set():
                await self.want(waiting)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await over.wait()

        saying = asyncio.create_task(say_on())
        try:
            yield
        finally:
            over.set()
            await saying

    async def starts(self, launcher: int = -1) -> list[pb.Start]:
        """All starts, the first first."""
        async with self.stub(launcher) as stub:
            answer = await stub.ListStarts(pb.ListStartsRequest(show_ended=True))
        return list(reversed(answer.starts))

    async def until_states(self, *states: str, launcher: int = -1, seconds: float = SOON) -> list[pb.Start]:
        """Waits until the starts have these states."""
        wanted = [pb.StartState.Value(f"START_STATE_{state.upper()}") for state in states]
        seen: list[pb.Start] = await self.mesh.until(
            lambda: self.starts(launcher),
            lambda starts: [start.state for start in starts] == wanted,
            f"the starts are {', '.join(states) or 'none'}",
            seconds,
        )
        return seen


class _Keyed:
    def __init__(self, stub: launcher_pb2_grpc.LauncherServiceStub, key: str) -> None:
        self._stub = stub
        # A busy machine may take longer to accept a connection than a channel waits for it.
        self._call: dict[str, Any] = {"metadata": bearer(key), "timeout": SOON, "wait_for_ready": True}

    def __getattr__(self, method: str) -> Callable[[Any], Any]:
        return lambda request: getattr(self._stub, method)(request, **self._call)


async def weft(mesh: Mesh, *arguments: str) -> str:
    """What a command prints that speaks to this mesh; fails if it ends with an error."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WEFT_")}
    process = await asyncio.create_subprocess_exec(
        *(*WEFT, *arguments),
        env={**environ, "COLUMNS": "200", **mesh.environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


def node_environ(folder: Path, **more: str) -> Mapping[str, str]:
    """What a template's `worker_init` exports."""
    vllm = simulated_vllm("--model", "sim-model").command
    return {
        "WEFT_VLLM_COMMAND": " ".join(vllm),
        "WEFT_WORKER_PROGRAM": f"{sys.executable} -m services.cli",
        "WEFT_LOG_DIR": str(folder),
        **more,
    }


@pytest.fixture
async def site(start_mesh: StartMesh, tmp_path: Path) -> AsyncIterator[Site]:
    mesh = await start_mesh(workers=0, launcher={**QUICK, "worker_grace_s": 5.0, "attach_timeout_s": 10.0})
    async with FakeGlobus(tmp_path, node_environ(tmp_path)) as globus:
        site = Site(mesh, globus, [])
        try:
            yield site
        finally:
            for launcher in site.launchers:
                print(f"log of {launcher.name}:\n{launcher.log}")
                await asyncio.to_thread(launcher.clear_away)


async def test_a_cold_want_starts_one_worker_that_is_stopped_when_idle(site: Site) -> None:
    await site.create(idle_time=Duration(seconds=1), user_endpoint_config={"account": "demo"})
    await site.launch()
    for _ in range(20):
        await site.want(waiting=50)
    async with site.wanting(50):
        (start,) = await site.until_states("ready")
        (task,) = site.globus.started()
        assert task.config == {"account": "demo", "weft_endpoint": ENDPOINT, "weft_slot": 0}
        assert task.payload["start"] == start.name.removeprefix("starts/")
        (session,) = await site.mesh.sessions()
        assert (session.start, session.instance) == (task.payload["start"], start.instance)
        answer = await site.mesh.openai().chat.completions.create(
            model="sim-model", messages=[{"role": "user", "content": "Hello"}]
        )
        assert answer.choices[0].message.content
    await site.want(waiting=0)
    (start,) = await site.until_states("gone")
    await asyncio.wait_for(task.ended.wait(), 2 * SOON)
    assert task.answer is not None
    assert task.answer["result"]["outcome"] == "stopped"
    assert len(site.globus.started()) == 1
    times = [start.create_time, start.submit_time, start.attach_time, start.ready_time, start.end_time]
    assert [time.ToMilliseconds() for time in times] == sorted(time.ToMilliseconds() for time in times)


async def test_a_launcher_that_is_killed_starts_nothing_twice(site: Site) -> None:
    await site.create(min_workers=1)
    site.globus.hold()
    launcher = await site.launch()
    await site.until_states("queued")
    await launcher.kill()
    site.globus.release()
    await site.mesh.until(site.mesh.sessions, bool, "the worker has attached while no launcher was there")
    await launcher.start()
    (start,) = await site.until_states("ready")
    await launcher.kill()
    await launcher.start()
    assert [again.name for again in await site.until_states("ready")] == [start.name]
    assert len(site.globus.started()) == 1
    await launcher.terminate()
    assert len(await site.mesh.sessions()) == 1, "a worker outlives its launcher"


async def test_a_task_that_is_delivered_twice_gives_one_worker(site: Site) -> None:
    await site.create(min_workers=1)
    await site.launch()
    await site.until_states("ready")
    again = site.globus.deliver_again(site.globus.started()[0])
    await asyncio.wait_for(again.ended.wait(), 2 * SOON)
    assert again.answer is not None
    assert again.answer["result"]["outcome"] == "refused"
    await site.until_states("ready")
    assert len(await site.mesh.sessions()) == 1


async def test_a_start_that_is_stopped_before_its_job_began_admits_nobody_after(site: Site) -> None:
    await site.create()
    site.globus.hold()
    await site.launch()
    await site.want()
    (start,) = await site.until_states("queued")
    await site.want(waiting=0)  # before: whoever still waits is given another
    async with site.stub(key=site.mesh.key) as stub:
        await stub.StopStart(pb.StopStartRequest(name=start.name))
    await site.until_states("gone")
    task = site.globus.started()[0]
    site.globus.release()
    await asyncio.wait_for(task.ended.wait(), 2 * SOON)
    assert task.answer is not None
    assert task.answer["result"]["outcome"] == "refused", task.answer


async def test_a_worker_is_stopped_by_hand_and_the_minimum_starts_another(site: Site) -> None:
    await site.create(min_workers=1)
    await site.launch()
    (start,) = await site.until_states("ready")
    async with site.stub(key=site.mesh.key) as stub:
        await stub.StopStart(pb.StopStartRequest(name=start.name))
    await site.until_states("gone", "ready")
    slots = [task.payload["slot"] for task in site.globus.started()]
    assert slots == [0, 1], "the first one's slot was not free yet"


async def test_two_launchers_on_one_database_act_one_at_a_time(site: Site) -> None:
    await site.create()
    site.globus.hold()
    first = await site.launch()
    await site.launch()
    await site.want(launcher=1)
    await site.until_states("queued", launcher=1)
    with writing(site.mesh.home / "launcher.db"):
        await first.freeze()
    try:
        await site.mesh.until(
            lambda: site.launchers[1].metric("weft_launcher_leading"), bool, "the other one has taken over"
        )
        site.globus.release()
        await site.until_states("ready", launcher=1)
    finally:
        first.send(signal.SIGCONT)

    async def leaders() -> float:
        return sum([await one.metric("weft_launcher_leading") for one in site.launchers])

    await site.mesh.until(leaders, lambda leading: leading == 1, "one has noticed that it no longer leads")
    await site.until_states("ready", launcher=0)
    assert len(site.globus.started()) == 1
    assert len(await site.mesh.sessions()) == 1


@contextlib.contextmanager
def writing(database: Path) -> Iterator[None]:
    """A transaction of ours, beside which nobody else is in one that writes. SQLite, unlike PostgreSQL, does not end
    that of a process which is frozen in it.
    """
    with contextlib.closing(sqlite3.connect(database, timeout=SOON, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


async def test_a_site_that_fails_is_tried_again_after_a_pause_that_is_told(site: Site) -> None:
    site.globus.results["start_worker"] = lambda payload: {"outcome": "vllm_failed", "detail": "no GPU was found"}
    await site.create()
    await site.launch(first_backoff_s=600)
    await site.want()
    await site.until_states("failed")
    async with site.stub() as stub:
        watch = stub.Watch(pb.WatchRequest())
        told = pb.EndpointState()
        while not told.failed:  # it is kept first, and told at the end of the same round
            told = next(iter((await watch.read()).endpoints), told)
        watch.cancel()
    assert "no GPU was found" in told.detail
    assert 0 < told.retry_after_s <= 600
    await site.want()
    assert len(await site.starts()) == 1


async def test_what_a_queue_says_is_told_to_those_who_wait(site: Site) -> None:
    asked = []

    def queue(payload: dict[str, Any]) -> dict[str, Any]:
        asked.append(payload)
        job = {"id": "77", "state": "queued", "endpoint": ENDPOINT, "slot": 0, "position": 3, "models": ["m"]}
        return {"scheduler": "slurm", "jobs": [{**job, "expected_start": "2026-11-21T14:05:00"}], "error": ""}

    await site.create()
    await site.launch(queue_poll_s=600)
    site.globus.results["queue_status"] = queue
    await site.want(waiting=0)
    async with site.stub() as stub:
        more = [stub.GetQueue(pb.GetQueueRequest(cluster="clusters/hpc")) for _ in range(20)]
        answers = await asyncio.gather(*more)
    assert {answer.jobs[0].position for answer in answers} == {3}
    assert len(asked) == 1


async def test_where_a_node_cannot_reach_a_router_calls_travel_as_tasks(site: Site) -> None:
    await site.create(call_mode=resources_pb2.CALL_MODE_AUTO, idle_time=Duration(seconds=3))
    launcher = await site.launch(worker_routers='["127.0.0.1:1"]')
    async with site.wanting():
        # The first worker gives up after its time to attach; then comes the second.
        failed, ready = await site.until_states("failed", "ready", seconds=2 * SOON)
        assert "calls travel as tasks" in failed.detail
        assert [task.payload["mode"] for task in site.globus.started()] == ["session", "task"]
        await site.mesh.until(site.mesh.models, bool, "the router knows the model")
        answer = await site.mesh.openai().chat.completions.create(
            model="sim-model", messages=[{"role": "user", "content": "Hello"}]
        )
        assert answer.choices[0].message.content
        (session,) = await site.mesh.sessions()
        assert session.start == ready.name.removeprefix("starts/")
    assert (await site.want(waiting=0)).tasks
    await launcher.kill()
    await launcher.start()
    await site.until_states("failed", "gone")
    assert await site.mesh.sessions() == []
    task = site.globus.started()[1]
    await asyncio.wait_for(task.ended.wait(), 2 * SOON)
    assert task.answer is not None
    assert task.answer["result"]["outcome"] == "stopped", task.answer


async def test_commands_show_how_far_a_start_is_and_stop_it(site: Site) -> None:
    assert json.loads(await weft(site.mesh, "status", "--json"))["unreachable"] == [], "nobody misses a launcher yet"
    site.globus.hold()
    await site.create()
    await site.launch()
    await site.want()
    (start,) = await site.until_states("queued")
    endpoints = json.loads(await weft(site.mesh, "status", "--json"))["endpoints"]
    (row,) = next(endpoint["starts"] for endpoint in endpoints if endpoint["name"] == ENDPOINT)
    assert (row["name"], row["state"], row["slot"]) == (start.name, "queued", 0)
    assert "queued" in await weft(site.mesh, "status")
    assert start.name in await weft(site.mesh, "starts", "list")
    await site.want(waiting=0)  # before: whoever still waits is given another
    await weft(site.mesh, "starts", "stop", start.name)
    await site.until_states("gone")
    assert json.loads(await weft(site.mesh, "starts", "list", "--json")) == []
    (over,) = json.loads(await weft(site.mesh, "starts", "list", "--ended", "--json"))
    assert over["detail"] == "users/dev asked for its end"


async def test_weft_up_runs_a_launcher_too(tmp_path: Path) -> None:
    up = Up(tmp_path, "--launcher", "--workers", "0")
    try:
        await up.begin()
        environ = {"WEFT_HOME": str(tmp_path / "home")}
        process = await asyncio.create_subprocess_exec(
            *(*WEFT, "starts", "list", "--json"), env={**os.environ, **environ}, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert (process.returncode, output.strip()) == (0, b"[]"), up.log
        up.send(signal.SIGINT)
        assert await up.ended() == 0
    finally:
        await asyncio.to_thread(up.clear_away)
