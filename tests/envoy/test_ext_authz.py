"""The real Envoy in front of a mesh, asking auth who may pass."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.testing.mesh import Mesh, StartMesh
from tests.testing.parts import requires_part
from tests.testing.processes import HeldPort

pytestmark = requires_part("envoy")

TYPE = "type.googleapis.com/envoy"
CHAT = "/v1/chat/completions"
ASKED = {"model": "sim-model", "messages": [{"role": "user", "content": "a"}], "max_tokens": 4}


def any_of(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": f"{TYPE}.{kind}", **fields}}


def address(where: str) -> dict[str, Any]:
    host, _, port = where.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def cluster(name: str, where: str, *, http2: bool = False) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": name,
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(where)}}]}],
        },
    }
    if http2:
        kind = "extensions.upstreams.http.v3.HttpProtocolOptions"
        options = {"@type": f"{TYPE}.{kind}", "explicit_http_config": {"http2_protocol_options": {}}}
        made["typed_extension_protocol_options"] = {f"envoy.{kind}": options}
    return made


def bootstrap(listen: str, mesh: Mesh) -> dict[str, Any]:
    """As docs/identity.md says it."""
    key = (mesh.home / "service.key").read_text().strip()
    ask = any_of(
        "envoy.filters.http.ext_authz",
        "extensions.filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        grpc_service={
            "envoy_grpc": {"cluster_name": "auth"},
            "timeout": "2s",
            "initial_metadata": [{"key": "authorization", "value": f"Bearer {key}"}],
        },
        failure_mode_allow=False,
        status_on_error={"code": 503},
    )
    router = any_of("envoy.filters.http.router", "extensions.filters.http.router.v3.Router")
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "facade", "timeout": "0s"}}]
    manager = any_of(
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="weft",
        http_filters=[ask, router],
        route_config={"virtual_hosts": [{"name": "weft", "domains": ["*"], "routes": routes}]},
    )
    return {
        "static_resources": {
            "listeners": [{"address": address(listen), "filter_chains": [{"filters": [manager]}]}],
            "clusters": [
                cluster("auth", mesh.address("auth"), http2=True),
                cluster("facade", mesh.address("facade")),
            ],
        }
    }


def launch(config: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [os.environ["WEFT_ENVOY"], "-c", str(config), "--concurrency", "1", "--disable-hot-restart"]
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


@pytest.fixture
def port() -> Iterator[HeldPort]:
    held = HeldPort()
    yield held
    held.close()


async def test_envoy_lets_pass_whom_auth_knows(start_mesh: StartMesh, tmp_path: Path, port: HeldPort) -> None:
    mesh = await start_mesh()
    listen = f"127.0.0.1:{port.port}"
    config = tmp_path / "envoy.yaml"
    config.write_text(yaml.safe_dump(bootstrap(listen, mesh)))
    config.chmod(0o600)
    envoy = launch(config, tmp_path / "envoy.log")
    try:
        async with aiohttp.ClientSession(f"http://{listen}") as client:

            async def ask(key: str = "") -> tuple[int, Any]:
                headers = {"authorization": f"Bearer {key}"} if key else {}
                try:
                    async with client.post(CHAT, json=ASKED, headers=headers) as answer:
                        body = await answer.text()
                        told = json.loads(body) if answer.content_type == "application/json" else body
                        return answer.status, told
                except aiohttp.ClientConnectionError:
                    return 0, (tmp_path / "envoy.log").read_text()[-2000:]

            status, told = await mesh.until(ask, lambda answer: answer[0] == 401, "Envoy asks auth")
            assert told["error"]["code"] == "missing_api_key"
            status, told = await ask("weft_abc_def")
            assert (status, told["error"]["code"]) == (401, "invalid_api_key")
            status, told = await ask(mesh.key)
            assert (status, told["object"]) == (200, "chat.completion")
            scoped = await mesh.create_key(allow=["another"])
            status, told = await ask(scoped)
            assert (status, told["error"]["code"]) == (403, "model_forbidden")  # by the router: Envoy sees no model
            await mesh.auth.kill()
            status, _ = await ask(mesh.key)
            assert status == 503
    finally:
        envoy.kill()
        envoy.wait()
