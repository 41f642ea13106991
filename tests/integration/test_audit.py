"""Calls to an audited endpoint are in the router's audit log; the log of a Globus endpoint sees none of them."""

import json
from pathlib import Path
from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask
from weft.registry.v1 import registry_pb2, resources_pb2

from tests.testing.calls import WHOLE, Call
from tests.testing.mesh import ENDPOINT, Mesh, StartMesh


async def audit(mesh: Mesh, *, on: bool) -> None:
    """Has the calls to the endpoint audited, or no longer."""
    endpoint = resources_pb2.Endpoint(name=ENDPOINT, audit=on)
    request = registry_pb2.UpdateEndpointRequest(endpoint=endpoint, update_mask=FieldMask(paths=["audit"]))
    async with mesh.stubs() as stubs:
        await stubs.registry.UpdateEndpoint(request, **stubs.call)


def calls_in(log: Path) -> list[dict[str, Any]]:
    """The lines that tell of calls; others tell of the log itself, and of what the mesh does."""
    whole, _, _ = log.read_text().rpartition("\n")  # The router may be writing the next one.
    told = [json.loads(line) for line in whole.splitlines()]
    return [line for line in told if line["event"] in ("begin", "end")]


async def test_each_call_is_written_with_who_and_where_and_nothing_of_what(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    log = mesh.home / "router" / "audit.log"

    async def written() -> list[dict[str, Any]]:
        return calls_in(log)

    assert await Call(mesh, stream=False).ending() == WHOLE
    await audit(mesh, on=True)

    async def call_and_look() -> list[dict[str, Any]]:
        assert await Call(mesh, stream=True).ending() == WHOLE
        return await written()

    # The first calls may still go by the catalogue of before.
    lines = await mesh.until(call_and_look, lambda lines: len(lines) >= 2, "an audited call is written")
    begin = next(line for line in lines if line["event"] == "begin")
    (session,) = await mesh.sessions()
    assert begin["principal"] == "users/dev"
    assert (begin["endpoint"], begin["instance"]) == (ENDPOINT, session.instance)
    end = await mesh.until(
        written,
        lambda lines: any(line["event"] == "end" and line["attempt"] == begin["attempt"] for line in lines),
        "its end is written",
    )
    outcome = next(line for line in end if line["event"] == "end" and line["attempt"] == begin["attempt"])
    assert (outcome["outcome"], outcome["status"]) == ("ok", 200)
    assert set(begin) | set(outcome) == {
        *("seq", "prev", "time", "event", "attempt", "request_id", "principal", "operation", "model"),
        *("endpoint", "instance", "outcome", "status"),
    }


async def test_a_router_that_is_killed_leaves_the_beginning(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(sim=("--ttft-s", "60"))
    await audit(mesh, on=True)
    log = mesh.home / "router" / "audit.log"

    async def begun() -> list[Call]:
        calls.append(Call(mesh, stream=True))
        return calls if calls_in(log) else []

    calls: list[Call] = []
    await mesh.until(begun, bool, "a call that is under way is written")
    await mesh.router.kill()
    assert {line["event"] for line in calls_in(log)} == {"begin"}
    for call in calls:
        await call.leave()
