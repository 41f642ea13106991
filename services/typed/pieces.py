"""What a stream has told of its answer so far, and the typed pieces that are made of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw
from weft.inference.v1 import chat_pb2, completions_pb2

from services.core.errors import Reason, ServiceError
from services.typed.messages import shape_of
from services.typed.nothing import MEANT_NOTHING
from services.typed.raw import NULL, object_text
from services.typed.shape import EXTRA, Fields

P = TypeVar("P", chat_pb2.StreamChatResponse, completions_pb2.StreamCompleteResponse)


class Kind(Generic[P]):
    """What all streams of one kind have in common; `constant` is what each event's `object` says, and `event` what
    `quick.py` reads.
    """

    def __init__(self, piece: type[P], constant: str, event: Any) -> None:
        self.piece: type[P] = piece
        self.constant = Raw(f'"{constant}"'.encode())
        self.decode = msgspec.json.Decoder(event).decode
        fields: Any = piece.DESCRIPTOR.fields_by_name
        self.start = shape_of(fields["start"].message_type)
        self.delta = shape_of(fields["deltas"].message_type)
        self.usage = shape_of(fields["end"].message_type.fields_by_name["usage"].message_type)


class Pieces(Generic[P]):
    """Makes one piece of what is told until `flush`, and more only where it could not hold all.

    Usage and reasons are held until the stream has said that it is at its end: they come with the last piece.
    """

    def __init__(self, kind: Kind[P]) -> None:
        self._kind: Kind[P] = kind
        self._made: list[P] = []
        self._fields: Fields = {}
        """The next piece."""
        self._extra: dict[str, Raw] = {}
        """What else the next piece has."""
        self.begun = self.ended = False
        self._told: dict[str, Raw] = {}
        """Members of the answer as such, as last told."""
        self._ends: dict[int, Fields] = {}
        self._open: set[int] = set()
        self.used: Fields | None = None

    def progress(self, text: str) -> None:
        """Takes how things stand before the answer begins."""
        self._fields["progress"] = text

    def begin(self, found: dict[str, Raw], start: Fields) -> None:
        """Takes the first event's members of the answer as such, and what they are as fields."""
        self.begun = True
        self._told.update(found)
        self._fields["start"] = start

    def tell(self, found: dict[str, Raw]) -> set[str]:
        """Takes a later event's members of the answer as such. Returns which of them are new."""
        told, new = self._told, set()
        for key, raw in found.items():
            if told.get(key) == raw or (raw == NULL and (key in MEANT_NOTHING or key in self._kind.start.readers)):
                continue
            told[key] = raw
            new.add(key)
            if key in self._extra:
                self._finish()
            self._extra[key] = raw
        return new

    def delta(self, delta: Fields) -> None:
        """Takes a piece of a choice, which is open from its first piece on."""
        index = delta["index"]
        if index not in self._ends:
            self._open.add(index)
        for key in ("text", "tool_calls"):  # whose fields know no difference between empty and nothing
            if not delta.get(key, True):
                del delta[key]
        if len(delta) > 1:
            self._fields.setdefault("deltas", []).append(delta)

    def texts(self, index: int, key: str, texts: Iterable[str]) -> None:
        """Takes pieces of a choice that was told of before, which have nothing but a text under this key: does the same
        as `delta` for each.
        """
        deltas = [{"index": index, key: text} for text in texts if text or key != "text"]
        if deltas:
            self._fields.setdefault("deltas", []).extend(deltas)

    def end_choice(self, index: int, reason: str, stop: Raw) -> None:
        """Takes why a choice ended."""
        end: Fields = {"index": index, "finish_reason": reason}
        if stop != NULL:
            end["stop_reason_json"] = bytes(stop).decode()
        self._ends[index] = end
        self._open.discard(index)

    def end(self, done: bool) -> None:
        """The answer has ended; `done` tells that the stream said so. Raises UPSTREAM_BROKEN if it was cut."""
        if self._open or not (self._ends or (done and self.begun)):
            message = "The answer was cut: its stream ended before every choice had a reason to end."
            raise ServiceError(Reason.UPSTREAM_BROKEN, message)
        self.ended = True
        end: Fields = {"choices": [self._ends[index] for index in sorted(self._ends)]}
        if self.used is not None:
            end["usage"] = self.used
        self._fields["end"] = end

    def flush(self) -> list[P]:
        """The pieces that were not given out yet."""
        self._finish()
        made, self._made = self._made, []
        return made

    def _finish(self) -> None:
        fields, self._fields = self._fields, {}
        if self._extra:
            fields[EXTRA] = object_text(self._extra)
            self._extra = {}
        if fields:
            self._made.append(self._kind.piece(**fields))
