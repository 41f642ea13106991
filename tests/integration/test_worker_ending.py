"""How workers come and end: by an enrolment token, once; at the router's wish, at their job's end, or when nothing can
be done.
"""

import getpass
import socket
import sys
import time

import grpc
import pytest
from weft.session.v1 import frame_pb2, session_pb2

from services.cli.parts import Vllm
from services.sim.config import SimConfig
from services.worker.ending import calls_until
from tests.testing.calls import WHOLE, Call
from tests.testing.mesh import ENDPOINT, Mesh, StartMesh
from tests.testing.process_tree import descendants, is_alive
from tests.testing.processes import HeldPort
from tests.testing.workers import enrolment, launch, revoke, service_key, stop

LONG = 30_000
DRAINING = frame_pb2.WORKER_STATE_DRAINING


async def only_session(mesh: Mesh) -> session_pb2.Session:
    """The one worker that is attached."""
    (session,) = await mesh.sessions()
    return session


async def test_an_enrolment_token_admits_one_worker_once(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(workers=0)
    token = await enrolment(mesh, "start-1")
    flags = ("--enrolment-token-file", str(token))
    first = launch(mesh, *flags)
    await mesh.until_attached(1)
    assert (await only_session(mesh)).start == "start-1"
    assert await Call(mesh, stream=True).ending() == WHOLE
    second = launch(mesh, *flags)
    assert await second.ended() == 3
    assert "weft worker: The router refuses this worker: The start 'start-1' has its worker already" in second.log
    await first.kill()
    # The job is run again by its scheduler, or the task delivered again: the start has had its one worker.
    assert await launch(mesh, *flags).ended() == 3
    again = await enrolment(mesh, "start-1")
    assert await launch(mesh, "--enrolment-token-file", str(again)).ended() == 3
    assert not any(token.read_text().strip()[-20:] in part.log for part in mesh.parts)


async def test_the_token_may_be_taken_away_and_the_router_restarted(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(workers=0, auth={"session_token_life_s": 2})
    token = await enrolment(mesh, "start-1", serves="users/dev")
    launch(mesh, "--enrolment-token-file", str(token))
    await mesh.until_attached(1)
    token.unlink()
    await mesh.router.kill()
    await mesh.auth.kill()  # until the session token, which is good for 2 s, has expired
    started = time.time()
    await mesh.until(_nothing, lambda _: time.time() > started + 2.5, "the session token has expired")
    await mesh.auth.start()
    await mesh.router.start()
    await mesh.until_attached(1)
    assert (await only_session(mesh)).serves == "users/dev"


async def _nothing() -> None:
    return None


async def test_a_revoked_start_gets_no_worker_and_one_that_runs_drains(start_mesh: StartMesh) -> None:
    # A revocation leaves a call at least half of a token's life, in which the test is to have looked.
    mesh = await start_mesh(workers=0, auth={"session_token_life_s": 40})
    early = await enrolment(mesh, "early")
    await revoke(mesh, "early")
    worker = launch(mesh, "--enrolment-token-file", str(early))
    assert await worker.ended() == 3
    assert "The start 'early' was revoked" in worker.log
    running = launch(mesh, "--enrolment-token-file", str(await enrolment(mesh, "late")))
    await mesh.until_attached(1)
    stream = Call(mesh, stream=True, tokens=LONG)
    await stream.begun()
    await revoke(mesh, "late")
    # At once, by the router's wish; its calls can finish while its last token lasts.
    draining = await mesh.until(mesh.sessions, lambda seen: not seen or seen[0].report.state == DRAINING, "it drains")
    assert draining[0].report.detail == "draining: the router wishes it: its start was revoked"
    assert not stream.over
    await stream.leave()
    assert await running.ended() == 0, "as one that is asked to stop"


async def test_a_worker_that_is_asked_to_stop_finishes_its_calls_and_its_vllm(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(workers=0)
    worker = launch(mesh, "--key-file", str(mesh.home / "worker.key"))
    await mesh.until_attached(1)
    vllm = descendants(worker.pid)
    session = await only_session(mesh)
    stranger = await mesh.create_key()
    # Six seconds: longer than a busy machine takes to ask for the end and to see it, and within the worker's grace.
    stream = Call(mesh, stream=True, tokens=600)
    await stream.begun()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stop(mesh, session, key=stranger)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    await stop(mesh, session, "nobody has called it for long")
    draining = await mesh.until(mesh.sessions, lambda seen: not seen or seen[0].report.state == DRAINING, "it drains")
    assert draining[0].report.detail == "draining: the router wishes it: nobody has called it for long"
    assert not stream.over
    assert await stream.ending() == WHOLE
    assert await worker.ended() == 0
    assert [pid for pid in vllm if is_alive(pid)] == []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stop(mesh, session)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_services_see_who_is_attached(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(workers=1)
    async with mesh.stubs(service_key(mesh)) as stubs:
        seen = (await stubs.session.ListSessions(session_pb2.ListSessionsRequest(), **stubs.call)).sessions
    assert [(session.endpoint, session.start, session.serves) for session in seen] == [(ENDPOINT, "", "")]
    assert not seen[0].report.HasField("job")


async def test_a_worker_ends_before_its_job_does(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(workers=0, router={"wait_for_worker_s": 1})
    # The worker, a process with another below it, is to take calls before it drains.
    drains = time.time() + 12
    end = drains + 20
    key = ("--key-file", str(mesh.home / "worker.key"))
    worker = launch(mesh, *key, "--job-id", "4711", "--job-end", str(end), "--drain-before", "20")
    await mesh.until_attached(1)
    job = (await only_session(mesh)).report.job
    assert (job.id, job.host, job.account) == ("4711", socket.gethostname(), getpass.getuser())
    assert abs(job.end_time.ToMilliseconds() / 1000 - end) < 0.01
    # The short one ends while the worker drains, whenever that was ready.
    tokens = int((drains + 3 - time.time()) / SimConfig().inter_token_s)
    short, long = Call(mesh, stream=True, tokens=tokens), Call(mesh, stream=True, tokens=LONG)
    for call in (short, long):
        await call.begun()
    draining = await mesh.until(mesh.sessions, lambda seen: seen and seen[0].report.state == DRAINING, "it drains")
    assert draining[0].report.detail == "draining: its job ends soon"
    last = calls_until(end, 20)
    assert time.time() < last, "calls have what is left of the job"
    assert not short.over
    assert await Call(mesh, stream=False).ending() == "no_worker"
    assert await short.ending() == WHOLE
    assert await long.ending() == "shutting_down"
    assert await worker.ended() == 0
    assert last - 1 < time.time() < end


async def test_a_worker_that_no_router_takes_ends(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(workers=0)
    port = HeldPort()
    nobody = f"127.0.0.1:{port.port}"
    # Time for a first attempt also where the worker stands still for a while: it tells of what that met with.
    worker = launch(mesh, "--key-file", str(mesh.home / "worker.key"), "--attach-timeout", "4", router=nobody)
    assert await worker.ended() == 4
    assert f"No router took this worker within 4 s. Nothing listens at {nobody}" in worker.log
    port.close()


async def test_a_vllm_that_fails_again_and_again_ends_the_worker(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(workers=0)
    fails = "import sys; print('INFO 11-21 10:00:00 [a.py:1] Loading'); sys.exit('ValueError: no such model: x')"
    vllm = Vllm(command=(sys.executable, "-c", fails, "{port}"))
    worker = launch(mesh, "--key-file", str(mesh.home / "worker.key"), "--vllm-restarts", "2", vllm=vllm)
    assert await worker.ended() == 5
    told = worker.log.splitlines()[-1]
    assert told == "weft worker: vLLM ended with status 1: ValueError: no such model: x, 2 times in a row."


async def test_what_a_starting_vllm_does_is_seen_at_the_router(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(workers=0)
    loads = (
        "import signal, sys; "
        "print('Loading safetensors checkpoint shards:  60% Completed | 3/5 [00:01<00:01]', end='\\r', flush=True); "
        "signal.pause()"
    )
    vllm = Vllm(command=(sys.executable, "-c", loads, "{port}"))
    launch(mesh, "--key-file", str(mesh.home / "worker.key"), vllm=vllm)

    async def detail() -> str:
        return "".join(session.report.detail for session in await mesh.sessions())

    await mesh.until(detail, lambda said: said == "vLLM is starting: loading weights, 3 of 5 shards", "it tells")
    assert (await only_session(mesh)).report.state == frame_pb2.WORKER_STATE_STARTING


@pytest.mark.parametrize(("content", "sentence"), [(None, "cannot be read from"), ("\n", "is empty")])
async def test_an_enrolment_token_that_is_not_there(start_mesh: StartMesh, content: str | None, sentence: str) -> None:
    mesh = await start_mesh(workers=0, services=())
    file = mesh.home / "token"
    if content is not None:
        file.write_text(content)
    worker = launch(mesh, "--enrolment-token-file", str(file))
    assert await worker.ended() == 1
    assert sentence in worker.log
    assert "Traceback" not in worker.log
