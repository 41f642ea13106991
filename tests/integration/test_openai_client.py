"""OpenAI's and Anthropic's Python clients, unmodified, against a mesh: only the base URL and the key are ours."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.testing.mesh import Mesh, StartMesh
from tests.testing.processes import HeldPort

MODEL = "sim-model"
ASKED: Any = [{"role": "user", "content": "Tell me of looms."}]
CALL: dict[str, Any] = {"model": MODEL, "messages": ASKED, "max_tokens": 8}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
def client(mesh: Mesh) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{mesh.url}/v1", api_key=mesh.key, max_retries=0) as made:
        yield made


@pytest.fixture
def claude(mesh: Mesh) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=mesh.url, api_key=mesh.key, max_retries=0) as made:
        yield made


def text_of(chunks: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_chat_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**CALL)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8
    chunks = list(client.chat.completions.create(**CALL, stream=True, stream_options={"include_usage": True}))
    assert text_of(chunks) == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8


async def test_chat_async(mesh: Mesh) -> None:
    async with mesh.openai() as client:
        whole = await client.chat.completions.create(**CALL)
        stream = await client.chat.completions.create(**CALL, stream=True)
        assert text_of([chunk async for chunk in stream]) == whole.choices[0].message.content


def test_completions(client: openai.OpenAI) -> None:
    assert client.completions.create(model=MODEL, prompt="Once", max_tokens=4).choices[0].text
    assert list(client.completions.create(model=MODEL, prompt="Once", max_tokens=4, stream=True))


def test_tools(client: openai.OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "weather"}}
    answer = client.chat.completions.create(
        model=MODEL, messages=ASKED, tools=[WEATHER], tool_choice=named, max_tokens=200
    )
    calls = answer.choices[0].message.tool_calls
    assert calls
    assert calls[0].type == "function"
    assert set(json.loads(calls[0].function.arguments)) == {"city"}


def test_response_format(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"dark": {"type": "boolean"}}, "required": ["dark"]}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "colour", "schema": schema}}
    answer = client.chat.completions.create(model=MODEL, messages=ASKED, response_format=wanted, max_tokens=200)
    assert set(json.loads(answer.choices[0].message.content or "")) == {"dark"}


def test_embeddings(client: openai.OpenAI) -> None:
    """The client asks for base64 unless it is told otherwise, and decodes it."""
    decoded = client.embeddings.create(model=MODEL, input=["warp", "weft"])
    floats = client.embeddings.create(model=MODEL, input=["warp", "weft"], encoding_format="float")
    for one, other in zip(decoded.data, floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="no-such-model"):
        client.models.retrieve("no-such-model")


async def test_errors_of_the_caller_are_typed(client: openai.OpenAI, mesh: Mesh) -> None:
    with pytest.raises(openai.AuthenticationError) as unknown:
        client.with_options(api_key="nonsense").chat.completions.create(**CALL)
    assert unknown.value.type == "authentication_error"
    with pytest.raises(openai.NotFoundError, match="no-such-model") as missing:
        client.chat.completions.create(**{**CALL, "model": "no-such-model"})
    assert (missing.value.type, missing.value.param) == ("NotFoundError", "model")
    assert missing.value.request_id
    key = await mesh.create_key(allow=["another"])
    with pytest.raises(openai.PermissionDeniedError, match=MODEL):
        client.with_options(api_key=key).chat.completions.create(**CALL)
    with pytest.raises(openai.BadRequestError, match="must be a string"):
        client.chat.completions.create(**{**CALL, "model": 5})
    with pytest.raises(openai.NotFoundError):
        client.post("/nothing", cast_to=object, body={})


async def test_errors_of_the_mesh_are_typed(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(
        facade={"max_body_bytes": 10_000}, router={"wait_for_worker_s": 0.1}, sim=("--inter-token-s", "0.5")
    )
    async with mesh.openai() as client:
        with pytest.raises(openai.APIStatusError, match="larger than 10000 bytes") as large:
            await client.chat.completions.create(**CALL, user="x" * 20_000)
        assert large.value.status_code == 413
        with pytest.raises(openai.APITimeoutError):
            await client.chat.completions.create(**{**CALL, "max_tokens": 100}, timeout=0.3)
        await mesh.workers[0].kill()
        await mesh.until(mesh.sessions, lambda sessions: not sessions, "the worker is gone")
        with pytest.raises(openai.InternalServerError) as nobody:
            await client.chat.completions.create(**CALL)
        assert (nobody.value.status_code, nobody.value.code) == (503, "no_worker")
        assert int(nobody.value.response.headers["retry-after"]) >= 1


async def test_an_error_in_mid_stream_is_raised(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(sim=("--inter-token-s", "0.05"))
    async with mesh.openai() as client:
        stream = await client.chat.completions.create(**{**CALL, "max_tokens": 1000}, stream=True)
        for _ in range(3):
            await anext(stream)
        await mesh.workers[0].kill()
        with pytest.raises(openai.APIError, match="worker"):
            await _exhaust(stream)


async def _exhaust(stream: AsyncIterator[Any]) -> None:
    async for _ in stream:
        pass


def test_no_mesh_at_all() -> None:
    port = HeldPort()
    with (
        openai.OpenAI(base_url=f"http://127.0.0.1:{port.port}/v1", api_key="k", max_retries=0) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        client.models.list()
    port.close()


def test_errors_of_anthropics_client_are_typed(claude: anthropic.Anthropic, mesh: Mesh) -> None:
    with pytest.raises(anthropic.NotFoundError, match="no-such-model"):
        claude.messages.create(model="no-such-model", messages=ASKED, max_tokens=8)
    with pytest.raises(anthropic.AuthenticationError) as unknown:
        claude.with_options(api_key="nonsense").messages.create(**CALL)
    assert unknown.value.body["error"]["type"] == "authentication_error"  # type: ignore[index, call-overload]
    with pytest.raises(anthropic.BadRequestError, match="must be a string"):
        claude.post("/v1/messages", cast_to=object, body={**CALL, "model": 5})
