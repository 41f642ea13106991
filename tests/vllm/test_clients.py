"""The clients of OpenAI and of Anthropic, unmodified: only the base URL and the key are ours."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from pydantic import BaseModel

from tests.vllm.mesh import Mesh
from tests.vllm.rows.chat import WEATHER
from tests.vllm.rows.row import CHAT_MODEL, EMBED_MODEL

ASKED: Any = [{"role": "user", "content": "Name a colour."}]


class Colour(BaseModel):
    """A shape that even a model of random weights keeps to, when it is held to it."""

    dark: bool


@pytest.fixture(scope="module")
def client(mesh: Mesh) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{mesh.url}/v1", api_key=mesh.key, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def claude(mesh: Mesh) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=mesh.url, api_key=mesh.key, max_retries=0) as made:
        yield made


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=CHAT_MODEL, messages=ASKED, max_tokens=8, temperature=0)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8


def test_chat_streamed(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=CHAT_MODEL, messages=ASKED, max_tokens=8, temperature=0)
    stream = client.chat.completions.create(
        model=CHAT_MODEL,
        messages=ASKED,
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8


async def test_chat_async(mesh: Mesh) -> None:
    async with openai.AsyncOpenAI(base_url=f"{mesh.url}/v1", api_key=mesh.key, max_retries=0) as client:
        answer = await client.chat.completions.create(model=CHAT_MODEL, messages=ASKED, max_tokens=4)
        assert answer.choices[0].finish_reason == "length"
        stream = await client.chat.completions.create(model=CHAT_MODEL, messages=ASKED, max_tokens=4, stream=True)
        finished = [chunk.choices[0].finish_reason async for chunk in stream]
        assert finished[-1] == "length"


def test_tools(client: openai.OpenAI) -> None:
    tools: Any = [WEATHER]
    # Named, because a model of random weights that must call any tool calls them without end.
    named: Any = {"type": "function", "function": {"name": "weather"}}
    answer = client.chat.completions.create(
        model=CHAT_MODEL, messages=ASKED, tools=tools, tool_choice=named, temperature=1, seed=5, max_tokens=300
    )
    calls = answer.choices[0].message.tool_calls
    assert calls
    called = calls[0]
    assert called.type == "function"
    assert called.function.name == "weather"
    assert set(json.loads(called.function.arguments)) == {"unit", "city"}


def test_response_format(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=CHAT_MODEL, messages=ASKED, response_format=Colour, max_tokens=60, temperature=0
    )
    assert isinstance(answer.choices[0].message.parsed, Colour)


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=CHAT_MODEL, prompt="Once", max_tokens=4, echo=True)
    assert answer.choices[0].text.startswith("Once")


def test_responses(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": CHAT_MODEL, "input": "Hello", "max_output_tokens": 8, "temperature": 0}
    answer = client.responses.create(**asked)
    events = list(client.responses.create(**asked, stream=True))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert answer.output_text == "".join(e.delta for e in events if e.type == "response.output_text.delta")


def test_embeddings(client: openai.OpenAI) -> None:
    """The client asks for base64 when it is not told otherwise, and decodes it."""
    decoded = client.embeddings.create(model=EMBED_MODEL, input=["warp", "weft"])
    floats = client.embeddings.create(model=EMBED_MODEL, input=["warp", "weft"], encoding_format="float")
    assert [item.index for item in decoded.data] == [0, 1]
    for one, other in zip(decoded.data, floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding)


def test_models(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {CHAT_MODEL, EMBED_MODEL}
    assert client.models.retrieve(CHAT_MODEL).id == CHAT_MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_errors_are_typed(client: openai.OpenAI, mesh: Mesh) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="no-such-model", messages=ASKED)
    assert "no-such-model" in unknown.value.message
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=CHAT_MODEL, messages=ASKED, temperature=-1)
    assert "temperature" in bad.value.message
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{mesh.url}/v1", api_key="nonsense", max_retries=0).models.list()


def test_anthropic(claude: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": CHAT_MODEL, "messages": ASKED, "max_tokens": 8, "extra_body": {"temperature": 0}}
    answer = claude.messages.create(**asked)
    assert answer.stop_reason == "max_tokens"
    with claude.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
    block = answer.content[0]
    assert block.type == "text"
    assert text == block.text
    assert claude.messages.count_tokens(model=CHAT_MODEL, messages=ASKED).input_tokens == answer.usage.input_tokens


def test_errors_of_anthropic_are_typed(claude: anthropic.Anthropic, mesh: Mesh) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        claude.messages.create(model="no-such-model", messages=ASKED, max_tokens=8)
    assert "no-such-model" in unknown.value.message
    with pytest.raises(anthropic.BadRequestError):
        claude.messages.create(model=CHAT_MODEL, messages=ASKED, max_tokens=-1)
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=mesh.url, api_key="nonsense", max_retries=0).messages.create(
            model=CHAT_MODEL, messages=ASKED, max_tokens=8
        )
