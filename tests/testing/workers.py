"""Workers by hand, with any flags: what `Mesh.launch_worker` has no words for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration
from weft.auth.v1 import auth_pb2
from weft.session.v1 import session_pb2

from services.cli.parts import WEFT, Vllm, simulated_vllm
from services.runtime.child import ChildSpec
from services.runtime.home import log_file
from tests.testing.mesh import ENDPOINT, Mesh
from tests.testing.processes import Part


def launch(
    mesh: Mesh,
    *flags: str,
    vllm: Vllm | None = None,
    router: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Part:
    """Starts a worker, on a simulated vLLM of its own if nothing else is said, and does not wait for it."""
    name = f"worker-{len(mesh.workers) + 1}"
    vllm = vllm or simulated_vllm()
    command: Sequence[str] = (
        *(*WEFT, "worker", "--router", router or mesh.address("router"), "--endpoint", ENDPOINT, "--grace", "10"),
        *vllm.flags(log_file(mesh.home, name.replace("worker", "vllm"))),
        *flags,
    )
    spec = ChildSpec(
        name, command, log_file(mesh.home, name), {"WEFT_HOME": str(mesh.home), **(environ or {})}, announces=False
    )
    mesh.workers.append(Part(spec))
    mesh.workers[-1].launch()
    return mesh.workers[-1]


def service_key(mesh: Mesh) -> str:
    """The key of the mesh's own parts."""
    return (mesh.home / "service.key").read_text().strip()


async def enrolment(mesh: Mesh, start: str, **fields: Any) -> Path:
    """The file of an enrolment token for a start."""
    request = auth_pb2.IssueEnrolmentTokenRequest(
        start=start, endpoint=ENDPOINT, lifetime=Duration(seconds=600), **fields
    )
    async with mesh.stubs(service_key(mesh)) as stubs:
        token = (await stubs.auth.IssueEnrolmentToken(request, **stubs.call)).token
    file = mesh.home / f"{start}.token"
    file.touch(0o600)
    file.write_text(token + "\n")
    return file


async def revoke(mesh: Mesh, start: str) -> None:
    """Ends the enrolment of a start."""
    async with mesh.stubs(service_key(mesh)) as stubs:
        await stubs.auth.RevokeEnrolment(auth_pb2.RevokeEnrolmentRequest(start=start), **stubs.call)


async def stop(mesh: Mesh, session: session_pb2.Session, why: str = "", *, key: str | None = None) -> None:
    """Asks a worker to end, through the router."""
    request = session_pb2.StopSessionRequest(endpoint=session.endpoint, instance=session.instance, why=why)
    async with mesh.stubs(key or service_key(mesh)) as stubs:
        await stubs.session.StopSession(request, **stubs.call)
