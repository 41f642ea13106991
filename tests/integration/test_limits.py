"""Limits in a mesh of processes: what clients of OpenAI's and of gRPC hear of them, and what calls are charged."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import grpc
import openai
import pytest
from google.rpc import error_details_pb2, status_pb2
from weft.inference.v1 import inference_pb2

from services.rpc.channel import bearer
from tests.testing.mesh import Mesh, StartMesh

MODEL = "sim-model"
CALL: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Tell me of looms."}]}
MINUTE = 5000


async def limited(
    start_mesh: StartMesh, *, limits: dict[str, Any] | None = None, sim: tuple[str, ...] = (), **quota: Any
) -> tuple[Mesh, str]:
    """A mesh whose users have a quota, and a key of one of them."""
    quotas = [{"subject": "users/tester", **quota}]
    mesh = await start_mesh(auth={"quotas": quotas}, router={"limits": limits or {}}, sim=sim)
    return mesh, await mesh.create_key()


async def post(mesh: Mesh, key: str, **fields: Any) -> tuple[int, Any, dict[str, Any]]:
    """Status, headers and body of a chat."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{mesh.url}/v1/chat/completions", json={**CALL, **fields}) as response,
    ):
        return response.status, response.headers, await response.json()


async def test_openais_client_hears_of_limits(start_mesh: StartMesh) -> None:
    mesh, key = await limited(start_mesh, tokens_per_minute=MINUTE, requests_per_second=1000)
    async with mesh.openai(key) as client:
        raw = await client.chat.completions.with_raw_response.create(**CALL, max_tokens=200)
        assert raw.headers["x-ratelimit-limit-tokens"] == str(MINUTE)
        assert raw.headers["x-ratelimit-limit-requests"] == "1000"
        usage = raw.parse().usage
        assert usage is not None
        stream = await client.chat.completions.create(**CALL, max_tokens=200, stream=True)
        chunks = [chunk async for chunk in stream]
        assert all(chunk.usage is None and chunk.choices for chunk in chunks), "what was added has been taken out"
        assert chunks[-1].system_fingerprint
        # Both calls used the same: what is left is exactly the rest.
        left = MINUTE - 2 * usage.total_tokens
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(**CALL, max_tokens=MINUTE - 500)
        error = caught.value
        assert (error.status_code, error.type, error.code) == (429, "tokens", "rate_limit_exceeded")
        assert f"of which {left} are left" in error.message
        assert error.response.headers["x-ratelimit-remaining-tokens"] == str(left)
        assert 1 <= int(error.response.headers["retry-after"]) <= 61
        with pytest.raises(openai.BadRequestError) as impossible:
            await client.chat.completions.create(**CALL, max_tokens=MINUTE)
        assert impossible.value.code == "tokens_above_limit"


async def test_a_stream_that_is_left_is_charged_and_ends_its_place(start_mesh: StartMesh) -> None:
    mesh, key = await limited(start_mesh, sim=("--inter-token-s", "0.2"), concurrent_calls=1, tokens_per_minute=MINUTE)
    async with mesh.openai(key) as client:
        stream = await client.chat.completions.create(**CALL, max_tokens=1000, stream=True)
        await anext(aiter(stream))
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(**CALL, max_tokens=4)
        assert caught.value.type == "concurrent_requests"
        await stream.close()

        async def again() -> tuple[int, Any, Any]:
            return await post(mesh, key, max_tokens=4)

        status, headers, _ = await mesh.until(again, lambda answer: answer[0] == 200, "the place is free")
        # Nobody has heard what it used: it may have been all that it could.
        assert (status, int(headers["x-ratelimit-remaining-tokens"]) < MINUTE - 1000) == (200, True)


async def test_an_answer_is_shortened_where_there_is_no_room_and_says_so(start_mesh: StartMesh) -> None:
    limits = {"on_excess": "clamp", "prompt_overhead_tokens": 0}
    mesh, key = await limited(start_mesh, limits=limits, tokens_per_minute=160)
    status, headers, answer = await post(mesh, key, max_tokens=500)
    assert status == 200
    assert answer["usage"]["completion_tokens"] == int(headers["x-weft-max-tokens"]) < 160
    assert answer["choices"][0]["finish_reason"] == "length"


async def test_whoever_may_not_use_a_model_hears_of_that_first(start_mesh: StartMesh) -> None:
    mesh, _ = await limited(start_mesh, requests_per_second=0.001)
    key = await mesh.create_key(allow=("other-*",))
    for _ in range(3):
        assert (await post(mesh, key, max_tokens=4))[0] == 403
    other = await mesh.create_key()
    assert [(await post(mesh, other, max_tokens=4))[0] for _ in range(2)] == [200, 429]
    assert (await post(mesh, key, max_tokens=4))[0] == 403


async def test_grpc_tells_when_to_come_again_and_what_was_exhausted(start_mesh: StartMesh) -> None:
    mesh, key = await limited(start_mesh, requests_per_second=0.01)
    request = inference_pb2.InferRequest(
        operation="chat/completions", body_json=json.dumps({**CALL, "max_tokens": 2, "stream": True})
    )
    async with mesh.stubs() as stubs:

        async def infer() -> list[inference_pb2.InferResponse]:
            return [one async for one in stubs.inference.Infer(request, metadata=bearer(key), timeout=20)]

        answer = await infer()
        text = "".join(message.text for message in answer[1:])
        assert '"choices":[]' not in text
        assert text.endswith("data: [DONE]\n\n")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await infer()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    (packed,) = [value for key, value in caught.value.trailing_metadata() or () if key == "grpc-status-details-bin"]
    info, retry, quota = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.RetryInfo(),
        error_details_pb2.QuotaFailure(),
    )
    details = status_pb2.Status.FromString(packed).details
    for detail in details:
        for kind in (info, retry, quota):
            detail.Unpack(kind)
    assert info.reason == "REQUESTS_EXHAUSTED"
    assert 0 < retry.retry_delay.ToSeconds() <= 105, "a hundred seconds, and one slot of the window at most"
    assert [violation.subject for violation in quota.violations] == ["users/tester"]


async def test_many_at_once_do_not_overshoot(start_mesh: StartMesh) -> None:
    mesh, key = await limited(start_mesh, limits={"prompt_overhead_tokens": 20}, tokens_per_minute=1000)
    answers = await asyncio.gather(*(post(mesh, key, max_tokens=20) for _ in range(60)))
    used = [answer["usage"]["total_tokens"] for status, _, answer in answers if status == 200]
    assert {status for status, _, _ in answers} == {200, 429}
    assert 0 < sum(used) <= 1000
