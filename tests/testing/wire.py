"""HTTP by hand, for what no client library would send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tests.testing.processes import SOON


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


class Wire:
    """One connection. Everything that waits fails after a while."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.removeprefix("http://").rpartition(":")
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(self._host, int(self._port), limit=2**24)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.transport.abort()

    async def send(self, data: bytes) -> None:
        """Sends; a peer that has closed is no failure, for it may have answered before."""
        self._writer.write(data)
        try:
            async with asyncio.timeout(SOON):
                await self._writer.drain()
        except ConnectionError:
            pass

    async def pour(self, piece: bytes, most: int) -> int:
        """Sends a piece again and again, until the peer closes or so many bytes are out; how many it took."""
        sent = 0
        try:
            async with asyncio.timeout(SOON):
                while sent < most and not self._writer.is_closing():
                    self._writer.write(piece)
                    await self._writer.drain()
                    sent += len(piece)
                    await asyncio.sleep(0)
        except ConnectionError:
            pass
        return sent

    async def reply(self, *, head_only: bool = False) -> Reply:
        """The next answer; `head_only` for one to HEAD."""
        async with asyncio.timeout(SOON):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = b""
            if not head_only and "content-length" in headers:
                body = await self._reader.readexactly(int(headers["content-length"]))
            elif not head_only and headers.get("transfer-encoding") == "chunked":
                while size := int((await self._reader.readuntil(b"\r\n")).strip(), 16):
                    body += (await self._reader.readexactly(size + 2))[:-2]
                await self._reader.readexactly(2)
        return Reply(int(first.split()[1]), headers, body)

    async def receive(self, size: int) -> bytes:
        """So many bytes of whatever comes."""
        async with asyncio.timeout(SOON):
            return await self._reader.readexactly(size)

    async def rest(self) -> bytes:
        """All that comes until the peer closes; what a reset destroys is not there."""
        got = bytearray()
        try:
            async with asyncio.timeout(SOON):
                while piece := await self._reader.read(2**16):
                    got += piece
        except ConnectionError:
            pass
        return bytes(got)


def post(path: str, body: bytes, key: str | None = None, *headers: str, method: str = "POST") -> bytes:
    """A request with a length."""
    lines = [f"{method} {path} HTTP/1.1", "Host: weft", "Content-Type: application/json", *headers]
    if key is not None:
        lines.append(f"Authorization: Bearer {key}")
    return ("\r\n".join([*lines, f"Content-Length: {len(body)}"]) + "\r\n\r\n").encode("latin-1") + body
