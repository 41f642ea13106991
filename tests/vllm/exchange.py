"""One HTTP request and all of its answer, byte for byte."""

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `headers` have lower-case names, `body` is complete and de-chunked."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content_type(self) -> str | None:
        return self.headers.get("content-type")

    @property
    def streamed(self) -> bool:
        return (self.content_type or "").startswith("text/event-stream")


def send(base_url: str, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
    """Send exactly these headers and bytes (and Host, and the length) on a connection of their own."""
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, path, body=body, headers=dict(headers))
        response = connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, received, response.read())
    finally:
        connection.close()
