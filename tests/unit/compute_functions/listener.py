"""A server of one connection after another that answers what a test has written, byte by byte."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

Answer = bytes | Callable[[socket.socket, bytes], None]


class Listener:
    """`url` is where it listens; `requests` holds what it was sent."""

    def __init__(self, answer: Answer, family: int = socket.AF_INET, path: str = "") -> None:
        self._answer = answer
        self._socket = socket.socket(family)
        self._socket.bind(path or ("127.0.0.1", 0))
        self._socket.listen()
        self.port = 0 if path else self._socket.getsockname()[1]
        self.url = f"unix:{path}" if path else f"http://127.0.0.1:{self.port}"
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection, contextlib.suppress(OSError):
                    self._one(connection)

    def _one(self, connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            if not (more := connection.recv(65536)):
                return
            request += more
        head, _, body = request.partition(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        while len(body) < length:
            body += connection.recv(65536)
        self.requests.append(head + b"\r\n\r\n" + body)
        if callable(self._answer):
            self._answer(connection, self.requests[-1])
        else:
            connection.sendall(self._answer)

    def close(self) -> None:
        """Ends it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


@contextlib.contextmanager
def listening(answer: Answer, **options: object) -> Iterator[Listener]:
    """A listener while the block runs."""
    listener = Listener(answer, **options)  # type: ignore[arg-type]
    try:
        yield listener
    finally:
        listener.close()


def answer_of(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """An HTTP answer with a Content-Length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body
