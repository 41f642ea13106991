"""`weft up --envoy`, as a newcomer starts it."""

from __future__ import annotations

import json
import os
import re
import ssl
from datetime import timedelta
from pathlib import Path

import aiohttp
import grpc
import pytest

from services.cli.certificate_authority import CA_KEY, Authority, Wanted
from tests.envoy.test_grpc import answered
from tests.testing.edge import CHAT, events
from tests.testing.parts import requires_part
from tests.testing.up import Up

pytestmark = requires_part("envoy")

STREAMED = {"model": "sim-model", "messages": [{"role": "user", "content": "a"}], "stream": True, "max_tokens": 4}
RULES = [{"pattern": "spiffe://weft/users/*", "allow_models": ["*"]}]


@pytest.mark.parametrize("flags", [(), ("--mtls",), ("--one-process",)], ids=lambda flags: "".join(flags) or "plain")
async def test_a_mesh_behind_envoy(tmp_path: Path, flags: tuple[str, ...]) -> None:
    more = {"WEFT_ENVOY": os.environ["WEFT_ENVOY"], "WEFT_AUTH__CERTIFICATES": json.dumps(RULES)}
    up = Up(tmp_path, "--envoy", *flags, environ=more)
    try:
        await up.begin()
        assert up.url.startswith("https://127.0.0.1:")
        said = re.search(r"Authority +(\S+): clients must trust it", up.log)
        assert said is not None, up.log
        ca = Path(said[1])
        headers = {"authorization": f"Bearer {up.key}"}
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=ca))
        async with (
            aiohttp.ClientSession(connector=connector) as client,
            client.post(up.url + CHAT, json=STREAMED, headers=headers) as answer,
        ):
            assert events(await answer.text())[-1] == "[DONE]"
        front = re.search(r"gRPC +(\S+),", up.log)
        assert (front is not None) == ("--mtls" in flags)
        if front is not None:
            async with dialled(front[1], ca) as channel:
                assert (await answered(channel)).endswith("[DONE]\n\n")
        assert await up.terminate() == 0
    finally:
        up.clear_away()
    assert "nothing is left running" in up.log


def dialled(address: str, ca: Path) -> grpc.aio.Channel:
    """A channel of a caller whom the mesh's own authority has given a certificate."""
    authority = Authority.open(ca.parent, ca.parent / CA_KEY)
    assert authority is not None
    file = authority.issue(Wanted("spiffe://weft/users/alice", timedelta(days=1)), "users-alice")
    key = file.with_name("users-alice-key.pem").read_bytes()
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca.read_bytes(), key, file.read_bytes()))
