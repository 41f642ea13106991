"""The harness itself, and the commands that speak to a mesh that runs."""

import asyncio
import json
import os
import sys

import pytest

from tests.testing.mesh import Mesh, StartMesh
from tests.testing.processes import SOON

WEFT = (sys.executable, "-m", "services.cli")


async def weft(mesh: Mesh, *arguments: str, said: str = "", exit_code: int = 0) -> str:
    """What a command prints; fails if it ends otherwise than expected."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WEFT_")}
    process = await asyncio.create_subprocess_exec(
        *WEFT,
        *arguments,
        env={**environ, **mesh.environ},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(said.encode()), 2 * SOON)
    except TimeoutError:
        process.kill()
        await process.wait()
        pytest.fail(f"not within {2 * SOON:g} s: the end of weft {' '.join(arguments)}")
    assert process.returncode == exit_code, output.decode()
    return output.decode()


async def ask(mesh: Mesh, key: str | None = None) -> str:
    async with mesh.openai(key) as client:
        answer = await client.chat.completions.create(model="sim-model", messages=[{"role": "user", "content": "Hi"}])
    return answer.choices[0].message.content or ""


async def test_status_shows_endpoint_worker_and_model(mesh: Mesh) -> None:
    overview = json.loads(await weft(mesh, "status", "--json"))
    assert overview["models"] == ["sim-model"]
    assert overview["unreachable"] == []
    (endpoint,) = overview["endpoints"]
    assert (endpoint["name"], endpoint["availability"]) == ("clusters/local/endpoints/sim", "active")
    assert [worker["state"] for worker in endpoint["workers"]] == ["ready"]
    assert "clusters/local/endpoints/sim" in await weft(mesh, "status")


async def test_chat_answers_one_question(mesh: Mesh) -> None:
    assert len((await weft(mesh, "chat", "What is a loom?")).split()) > 10


async def test_chat_goes_on_until_the_input_ends(mesh: Mesh) -> None:
    output = await weft(mesh, "chat", said="Hello\n\nAnd now?\n")
    assert output.startswith("sim-model at http://127.0.0.1:")
    assert output.count("> ") == 4  # two questions, an empty line, the end


async def test_chat_tells_an_unknown_model_in_a_sentence(mesh: Mesh) -> None:
    output = await weft(mesh, "chat", "--model", "nope", "Hi", exit_code=1)
    assert output.strip() == "weft: The model `nope` does not exist."


async def test_doctor_finds_all_well(mesh: Mesh) -> None:
    parts = [line.split()[:2] for line in (await weft(mesh, "doctor")).splitlines()]
    assert parts == [
        ["ok", part]
        for part in ("configuration", "home", "auth", "registry", "router", "key", "workers", "facade", "answer")
    ]


async def test_a_key_is_created_used_listed_and_revoked(mesh: Mesh) -> None:
    wanted = ("--principal", "users/ada", "--expires-in", "30d", "--allow-model", "sim-*")
    created = json.loads(await weft(mesh, "keys", "create", *wanted, "--json"))
    name = created["resource"]["name"]
    assert await ask(mesh, created["key"])
    assert created["key"] not in await weft(mesh, "keys", "list")
    assert "users/ada" in await weft(mesh, "keys", "show", name)
    assert "sim-*" in await weft(mesh, "keys", "list", "--principal", "users/ada", "--json")
    assert "revoked" in await weft(mesh, "keys", "revoke", name)


async def test_a_key_is_scoped_and_rotated(mesh: Mesh) -> None:
    scope = ("--allow-operation", "chat/completions", "--group", "physics", "--expires-in", "9d")
    old = json.loads(await weft(mesh, "keys", "create", "--principal", "users/eve@anl.gov", *scope, "--json"))
    name = old["resource"]["name"]
    shown = await weft(mesh, "keys", "show", name)
    assert [word in shown for word in ("chat/completions", "physics", "never")] == [True] * 3
    assert f"weft keys rotate {name}" in await weft(mesh, "keys", "list"), "it ends within two weeks"
    new = json.loads(await weft(mesh, "keys", "rotate", name, "--overlap", "90m", "--json"))
    for key in (old["key"], new["key"]):
        assert await ask(mesh, key)
        assert key not in await weft(mesh, "keys", "list")
    assert new["resource"]["name"] in await weft(mesh, "keys", "show", name)
    assert "rotated already" in await weft(mesh, "keys", "rotate", name, exit_code=1)


async def test_session_tokens_are_signed_with_a_fresh_key(mesh: Mesh) -> None:
    assert "signing with" in await weft(mesh, "keys", "rotate-signing")


async def test_a_caller_is_denied_listed_and_admitted(mesh: Mesh) -> None:
    await weft(mesh, "auth", "deny", "users/mallory", "--comment", "her key is on a forum")
    denied = await weft(mesh, "auth", "denied", "--json")
    assert [word in denied for word in ("users/mallory", "her key is on a forum")] == [True] * 2
    assert "You cannot deny yourself" in await weft(mesh, "auth", "deny", "users/dev", exit_code=1)
    await weft(mesh, "auth", "admit", "users/mallory")
    assert "is not denied" in await weft(mesh, "auth", "admit", "users/mallory", exit_code=1)


async def test_status_goes_on_without_the_registry(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    await mesh.registry.kill()
    output = json.loads(await weft(mesh, "status", "--json", exit_code=1))
    assert output["models"] == ["sim-model"]
    assert [worker["state"] for worker in output["endpoints"][0]["workers"]] == ["ready"]
    assert f"The registry at {mesh.address('registry')} cannot be reached" in output["unreachable"][0]


async def test_doctor_tells_what_is_missing_and_the_remedy(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(workers=0)
    output = await weft(mesh, "doctor", exit_code=1)
    assert "no  workers       none is attached" in output
    assert "remedy: run 'weft worker --vllm-url URL'" in output


async def test_doctor_misses_a_launcher_where_workers_are_to_be_started(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    create = ("endpoints", "create", "clusters/local/endpoints/cold", "--model", "a-cold-model", "--globus")
    await weft(mesh, *create, "6f5c9a3e-2e2b-4a50-9d7e-1a4f0a6f1a11")
    await mesh.until(mesh.models, lambda models: "a-cold-model" in models, "the model is listed before it has a worker")
    output = await weft(mesh, "doctor", exit_code=1)
    assert "ok  key " in output
    assert "no  launcher " in output
    assert "remedy: run 'weft up --launcher', or 'weft serve launcher'" in output
    assert "ok  answer        sim-model answered" in output, "the other is not asked: that would start a job"


@pytest.mark.parametrize("part", ["auth", "registry", "router", "facade"])
async def test_a_part_that_was_killed_comes_back_on_its_port(start_mesh: StartMesh, part: str) -> None:
    # The facade may find a router that is back later than the worker does.
    mesh = await start_mesh(facade={"wait_for_router_s": 20})
    killed = getattr(mesh, part)
    address, pid = killed.address, killed.pid
    await killed.kill()
    await killed.start()
    assert (killed.address, killed.pid != pid) == (address, True)
    await mesh.until_attached(1)
    assert await ask(mesh)


async def test_workers_come_and_go(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(sim=("--model", "first"))
    await mesh.add_worker(sim=("--model", "second"))
    assert sorted(await mesh.models()) == ["first", "second"]
    assert await mesh.workers[1].terminate() == 0
    await mesh.until(mesh.models, lambda models: models == ["first"], "the second worker's model is gone")


async def test_counters_memory_and_logs_of_a_part_can_be_read(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    assert await mesh.router.metric("process_resident_memory_bytes") > 1e6
    assert mesh.router.memory() > 1e6
    await mesh.router.terminate()
    assert "stopping" in mesh.router.log
