"""The examples that ask something of a model, and the typed client, against a real vLLM."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from weft.client import Client, Retry, json_schema, tool

from tests.vllm.mesh import Mesh
from tests.vllm.rows.row import CHAT_MODEL, EMBED_MODEL

EXAMPLES = Path(__file__).parents[2] / "examples"
SECONDS = 120


@pytest.fixture(scope="module")
def client(mesh: Mesh) -> Iterator[Client]:
    with Client(mesh.router, credential=mesh.key, retry=Retry()) as made:
        yield made


def run(name: str, mesh: Mesh) -> str:
    """What an example prints."""
    environ = {
        "PATH": "/usr/bin:/bin",
        "WEFT_ROUTER": mesh.router,
        "WEFT_KEY": mesh.key,
        "WEFT_MODEL": CHAT_MODEL,
        "WEFT_EMBEDDING_MODEL": EMBED_MODEL,
    }
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"], env=environ, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("chat", " out)"),
        ("streaming", " tokens)"),
        ("tools", "weather("),
        ("structured", " is "),
        ("search", "1.000  The warp"),
        ("fan_out", "20 of 20 answered"),
    ],
)
def test_example(mesh: Mesh, name: str, shown: str) -> None:
    assert shown in run(name, mesh)


def test_a_stream_gathers_to_the_whole(client: Client) -> None:
    options = {"max_tokens": 12, "temperature": 0.0, "logprobs": True, "top_logprobs": 2}
    whole = client.chat(CHAT_MODEL, "Name a colour.", **options)  # type: ignore[arg-type]
    with client.stream_chat(CHAT_MODEL, "Name a colour.", **options) as stream:  # type: ignore[arg-type]
        gathered = stream.result()
    (one,), (other,) = whole.choices, gathered.choices
    assert (one.message.text, one.finish_reason) == (other.message.text, other.finish_reason)
    assert [token.token for token in one.logprobs.content] == [token.token for token in other.logprobs.content]
    assert whole.usage.completion_tokens == gathered.usage.completion_tokens == 12


def test_tool_calls_gather_to_the_whole(client: Client) -> None:
    weather = tool("weather", "Tells it.", {"type": "object", "properties": {"unit": {"enum": ["c", "f"]}}})
    asked = {"tools": [weather], "tool_choice": "weather", "temperature": 0.0, "max_tokens": 100}
    whole = client.chat(CHAT_MODEL, "How warm is it?", **asked)  # type: ignore[arg-type]
    with client.stream_chat(CHAT_MODEL, "How warm is it?", **asked) as stream:  # type: ignore[arg-type]
        gathered = stream.result()
    one, other = whole.choices[0].message.tool_calls[0], gathered.choices[0].message.tool_calls[0]
    assert (one.function.name, one.function.arguments) == (other.function.name, other.function.arguments)


def test_the_order_of_a_schemas_keys_is_the_answers(client: Client) -> None:
    for names in (["zebra", "ant"], ["ant", "zebra"]):
        schema = {
            "type": "object",
            "properties": {name: {"type": "boolean"} for name in names},
            "required": names,
            "additionalProperties": False,
        }
        answer = client.chat(CHAT_MODEL, "Answer.", response_format=json_schema("animals", schema), max_tokens=60)
        assert list(json.loads(answer.choices[0].message.text)) == names


def test_tokens_there_and_back(client: Client) -> None:
    tokens = client.tokenize(CHAT_MODEL, "warp and weft", add_special_tokens=False).tokens
    assert client.detokenize(CHAT_MODEL, tokens).prompt == "warp and weft"


def test_completions_stream(client: Client) -> None:
    with client.stream_complete(CHAT_MODEL, "Once", max_tokens=8, temperature=0.0, logprobs=1) as stream:
        gathered = stream.result()
    whole = client.complete(CHAT_MODEL, "Once", max_tokens=8, temperature=0.0, logprobs=1)
    assert gathered.choices[0].text == whole.choices[0].text
    assert list(gathered.choices[0].logprobs.tokens) == list(whole.choices[0].logprobs.tokens)


def test_raw_json(client: Client) -> None:
    asked = {"model": CHAT_MODEL, "input": "Hello", "max_output_tokens": 4}
    assert client.infer("responses", asked).result().json()["object"] == "response"
