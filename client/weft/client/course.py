"""How far a stream has come. Pure: the streams of both clients read, and tell it."""

from __future__ import annotations

from typing import Any, Generic

import grpc
from weft.client.errors import Truncated
from weft.client.rpcs import Piece, StreamRpc, Whole


class Course(Generic[Piece, Whole]):
    """The pieces that have come. No more come when it is `over`."""

    def __init__(self, rpc: StreamRpc[Any, Piece, Whole], request_id: str) -> None:
        self.pieces: list[Piece] = []
        self.over = False
        self._rpc = rpc
        self._request_id = request_id
        self._whole = False

    def came(self, piece: Piece) -> Piece:
        """A piece has come."""
        self.pieces.append(piece)
        self._whole = self._whole or (self._rpc.ends is not None and self._rpc.ends(piece))
        return piece

    def ended(self) -> None:
        """The server has ended the stream, without an error. Raises `Truncated` if that was not the answer's end."""
        self.over = True
        self._whole = self._whole or self._rpc.ends is None
        self.check()

    def check(self) -> None:
        """Raises `Truncated` if the answer is not whole."""
        if not self._whole:
            raise Truncated(
                "TRUNCATED",
                "The stream ended before the answer's end; what came is not all of it.",
                code=grpc.StatusCode.DATA_LOSS,
                request_id=self._request_id,
            )

    def text_of(self, piece: Piece) -> str:
        """What a piece adds to the text."""
        return self._rpc.text(piece)

    def so_far(self) -> Whole:
        """What has come, as an answer."""
        return self._rpc.gather(self.pieces)

    def result(self) -> Whole:
        """The whole answer. Raises `Truncated` if it has not come."""
        self.check()
        return self.so_far()
