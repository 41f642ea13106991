"""The facade by HTTPS, and its certificate renewed while it runs."""

import ssl
from pathlib import Path

import aiohttp
import pytest

from tests.testing.certificates import Authority
from tests.testing.mesh import Mesh, MeshOptions, StartMesh
from tests.testing.mtls import Pki


async def reached(mesh: Mesh, authority: Authority) -> bool:
    """Whether the facade's certificate is good for whoever trusts that authority alone."""
    context = ssl.create_default_context(cafile=str(authority.file))
    url = f"https://{mesh.address('facade')}/v1/models"
    headers = {"Authorization": f"Bearer {mesh.key}"}
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(url, ssl=context, headers=headers) as answer:
                return answer.status == 200
        except aiohttp.ClientConnectorCertificateError:
            return False


async def test_a_renewed_certificate_is_shown_without_a_restart(start_mesh: StartMesh, tmp_path: Path) -> None:
    pki, other = Pki(tmp_path), Authority(tmp_path, "other")
    files = pki.files("127.0.0.1", file="https")
    settings = {"tls_certificate_file": str(files.certificate), "tls_key_file": str(files.key)}
    mesh = await start_mesh(facade=settings)
    assert (await reached(mesh, pki.authority), await reached(mesh, other)) == (True, False)
    pki.files("127.0.0.1", file="https", authority=other)
    assert (await reached(mesh, pki.authority), await reached(mesh, other)) == (False, True)
    files.key.write_bytes(files.key.read_bytes()[:60])
    assert await reached(mesh, other), "half written, it is not taken up"
    assert "PRIVATE KEY" not in mesh.facade.log


@pytest.mark.parametrize("named", ["tls_certificate_file", "tls_key_file"])
async def test_half_of_a_certificate_is_refused(tmp_path: Path, named: str) -> None:
    files = Pki(tmp_path).files("127.0.0.1", file="https")
    mesh = Mesh(tmp_path / "home", MeshOptions(services=("facade",), facade={named: str(files.certificate)}))
    try:
        mesh.facade.launch()
        assert await mesh.facade.ended() != 0
        assert "HTTPS needs 'facade.tls_" in mesh.facade.log
        assert "Traceback" not in mesh.facade.log
    finally:
        mesh.clear_away()
