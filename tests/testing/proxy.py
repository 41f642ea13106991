"""An HTTP proxy as sites have one between their nodes and the world: it connects (RFC 9110, 9.3.6), and no more."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager


class ConnectProxy:
    """`seen` are the heads of the requests that it had. `hosts` says where it connects names; others are refused with
    `refusal`.
    """

    def __init__(self, hosts: Mapping[str, str], refusal: str = "403 Forbidden") -> None:
        self.seen: list[str] = []
        self._hosts = hosts
        self._refusal = refusal
        self._open: set[asyncio.StreamWriter] = set()
        self.address = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self._open.add(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.seen.append(head)
            method, target, _ = head.split(" ", 2)
            host, _, port = target.rpartition(":")
            if method != "CONNECT" or host not in self._hosts:
                writer.write(f"HTTP/1.1 {self._refusal}\r\ncontent-length: 0\r\n\r\n".encode())
                return
            far_reader, far_writer = await asyncio.open_connection(self._hosts[host], int(port))
            self._open.add(far_writer)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await asyncio.gather(_pipe(reader, far_writer), _pipe(far_reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass  # One of the two has gone, which is what connections do.
        finally:
            writer.close()

    def cut(self) -> None:
        """Breaks off every connection."""
        for writer in self._open:
            writer.close()
        self._open.clear()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@asynccontextmanager
async def connect_proxy(hosts: Mapping[str, str], refusal: str = "403 Forbidden") -> AsyncIterator[ConnectProxy]:
    """A proxy that runs in the body of the `async with`."""
    proxy = ConnectProxy(hosts, refusal)
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
