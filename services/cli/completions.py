"""The facade's HTTP API as a client sees it: models, and answers as they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec

from services.cli.failures import CommandError

Message = dict[str, str]
"""`role` and `content`, as OpenAI's API has it."""


class Completions:
    """Calls one facade with one key."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def models(self) -> list[str]:
        """The models that the key may call. Raises `CommandError`."""
        async with self._session.get(f"{self._url}/v1/models") as response:
            answer = await _json(response)
        return [model["id"] for model in answer["data"]]

    async def ask(self, model: str, messages: list[Message]) -> AsyncGenerator[str, None]:
        """The answer, piece by piece. Raises `CommandError` if there is none, or if it breaks off."""
        body = {"model": model, "messages": messages, "stream": True}
        whole = False
        async with self._session.post(f"{self._url}/v1/chat/completions", json=body) as response:
            if response.status != 200:
                await _json(response)
            async for line in response.content:
                event = line.strip().removeprefix(b"data:").strip()
                if event == b"[DONE]":
                    whole = True
                elif line.startswith(b"data:"):
                    yield _delta(msgspec.json.decode(event))
        if not whole:
            raise CommandError("The answer broke off.")


@asynccontextmanager
async def open_completions(url: str, key: str) -> AsyncIterator[Completions]:
    """A client for the body of the `async with`, in which a lost connection is raised as `CommandError`."""
    headers = {"Authorization": f"Bearer {key}"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    # Not `trust_env`: a proxy in the environment is not between this machine and its own mesh.
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        try:
            yield Completions(session, url)
        except aiohttp.ClientConnectorError as error:
            raise CommandError(f"Nothing answers at {url}; start a mesh with 'weft up'.") from error
        except aiohttp.ClientError as error:
            raise CommandError(f"The connection to {url} was lost: {error}.") from error


def _delta(event: dict[str, Any]) -> str:
    if "error" in event:
        raise CommandError(_sentence(event))
    choices = event.get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""


async def _json(response: aiohttp.ClientResponse) -> dict[str, Any]:
    body = await response.read()
    try:
        answer: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise CommandError(f"{response.url} answered {response.status} with what is not JSON.") from error
    if response.status != 200:
        raise CommandError(_sentence(answer))
    return answer


def _sentence(answer: dict[str, Any]) -> str:
    error = answer.get("error")
    return str(error.get("message")) if isinstance(error, dict) else str(answer)
