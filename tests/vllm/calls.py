"""Calls to a mesh that are watched, left or broken while they run."""

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from tests.vllm.mesh import Mesh
from tests.vllm.rows.row import CHAT_MODEL, JSON, encode

# Long enough to act while it runs: about 25 s of generation on one core.
LONG = 8000
READ_SECONDS = 60

MESSAGES = [{"role": "user", "content": "Go on."}]
# How each route is asked for a long answer.
LONG_CALLS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": LONG, "ignore_eos": True},
    "/v1/completions": {"prompt": "Go on.", "max_tokens": LONG, "ignore_eos": True},
    # Neither of these has ignore_eos: a bias against the end token does it.
    "/v1/responses": {"input": "Go on.", "max_output_tokens": LONG, "logit_bias": {"1": -100}},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": LONG},
}


class Call:
    """A call under way: sent, and not yet read."""

    def __init__(
        self, mesh: Mesh, path: str, fields: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(mesh.url).netloc, timeout=READ_SECONDS)
        body = encode({"model": CHAT_MODEL, "temperature": 0, **fields})
        self._connection.request("POST", path, body, {**JSON, **mesh.authorization, **(headers or {})})
        self._response: http.client.HTTPResponse | None = None

    @property
    def response(self) -> http.client.HTTPResponse:
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def first_events(self, count: int = 3) -> None:
        """Read until `count` events with data have come."""
        came = self._read_events(count)
        assert came is None, f"the stream ended too early, with status {self.response.status}, after {came}"

    def begins(self) -> bool:
        """Whether first events come; if not, it was refused, or has ended."""
        return self._read_events(3) is None

    def _read_events(self, count: int) -> list[bytes] | None:
        """None when they have come, else what came before the end."""
        came = []
        while count:
            line = self.response.readline()
            if not line:
                return came
            came.append(line)
            count -= line.startswith(b"data: ")
        return None

    def rest(self) -> str:
        """All that is still to come; what came before a broken connection when it breaks."""
        try:
            return self.response.read().decode()
        except http.client.IncompleteRead as broken:
            return broken.partial.decode()

    def leave(self) -> None:
        """Go away, as a client does whose user closed the window."""
        if self._response is not None:
            self._response.close()
        self._connection.close()


def long_call(mesh: Mesh, path: str = "/v1/chat/completions", *, stream: bool, **fields: Any) -> Call:
    return Call(mesh, path, {**LONG_CALLS[path], "stream": stream, **fields})


def error_of(stream: str) -> dict[str, Any] | None:
    """The error that a stream ends with, in OpenAI's or in Anthropic's shape; None when it has none."""
    for line in stream.splitlines():
        if line.startswith("data: {"):
            data = json.loads(line.removeprefix("data: "))
            if "error" in data or data.get("type") == "error":
                found: dict[str, Any] = data.get("error", data)
                return found
    return None
