"""Streamed answers: events of OpenAI's JSON to typed pieces. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import msgspec
from google.protobuf.descriptor import Descriptor
from msgspec import Raw
from weft.inference.v1 import chat_pb2, completions_pb2

from services.core.errors import Reason, ServiceError
from services.typed.events import EventReader
from services.typed.messages import shape_of
from services.typed.nothing import MEANT_NOTHING
from services.typed.quick import ALWAYS, QuickReader
from services.typed.raw import NULL, elements, members, object_text
from services.typed.refusals import refusal_event
from services.typed.shape import EXTRA, Fields
from services.typed.values import INT32, NOT, TEXT

P = TypeVar("P", chat_pb2.StreamChatResponse, completions_pb2.StreamCompleteResponse)

DONE: Final = b"[DONE]"
_WORD: Final = b" \xe2\x80\x94 "
"""What parts a heartbeat's word from its sentence: see `services/router/heartbeat.py`."""
_OF_ENDS: Final = frozenset({"finish_reason", "stop_reason"})


@dataclass
class _Piece:
    """A piece in the making."""

    fields: Fields = field(default_factory=dict)
    deltas: list[Fields] = field(default_factory=list)
    extra: dict[str, Raw] = field(default_factory=dict)


class StreamReader(Generic[P]):
    """Takes the bytes of a stream of events, gives pieces of the typed answer: what came together, in one piece.

    Usage and reasons are held until the stream has said that it is at its end: they come with the last piece.
    """

    def __init__(self, kind: type[P], constant: str) -> None:
        """`constant` is what each event's `object` says."""
        self._kind: type[P] = kind
        self._object = Raw(f'"{constant}"'.encode())
        self._start = shape_of(_held(kind, "start"))
        self._delta = shape_of(_held(kind, "deltas"))
        self._usage = shape_of(_held(kind, "end").fields_by_name["usage"].message_type)
        self._events = EventReader()
        self._piece = _Piece()
        self._begun = False
        self._quick: QuickReader | None = None
        self._done = self._ended = False
        self._told: dict[str, Raw] = {}
        """Members of the answer as such, as last told."""
        self._ends: dict[int, Fields] = {}
        self._open: set[int] = set()
        self._used: Fields | None = None

    def feed(self, chunk: bytes) -> Iterator[P]:
        """The pieces that these bytes complete; then raises what an event tells that is an error, and UPSTREAM_BROKEN
        for one that is none at all.
        """
        pieces: list[P] = []
        broken: ServiceError | None = None
        try:
            self._read(chunk, pieces)
        except ServiceError as error:
            broken = error
        except UnicodeDecodeError:
            broken = ServiceError(Reason.UPSTREAM_BROKEN, "The model server sent an event that is not UTF-8.")
        self._flush(pieces)
        yield from pieces
        if broken is not None:
            raise broken

    def _read(self, chunk: bytes, pieces: list[P]) -> None:
        for event in self._events.feed(chunk):
            if self._done:
                break
            if event.comment:
                self._comment(event.data)
            elif event.data == DONE:
                self._done = True
            else:
                self._event(event.data, pieces)
        if self._done and not self._ended:
            self._piece.fields["end"] = self._end()

    def end(self) -> P | None:
        """The last piece, unless it has come already. Raises UPSTREAM_BROKEN if the answer was cut."""
        return None if self._ended else self._kind(end=self._end())

    def _end(self) -> Any:
        if self._open or not (self._ends or (self._done and self._begun)):
            message = "The answer was cut: its stream ended before every choice had a reason to end."
            raise ServiceError(Reason.UPSTREAM_BROKEN, message)
        self._ended = True
        end: Fields = {"choices": [self._ends[index] for index in sorted(self._ends)]}
        if self._used is not None:
            end["usage"] = self._used
        return end

    def _comment(self, text: bytes) -> None:
        if not self._begun:
            detail = text.partition(_WORD)[2] if text.startswith(b"weft ") else text
            self._piece.fields["progress"] = detail.decode("utf-8", "replace")

    def _event(self, data: bytes, pieces: list[P]) -> None:
        deltas = None if self._quick is None else self._quick.read(data)
        if deltas is not None:
            for delta in deltas:
                self._delta_of(delta)
            return
        data.decode()  # what msgspec leaves as it stands, it does not check
        found = members(data)
        if found is None:
            raise ServiceError(Reason.UPSTREAM_BROKEN, "The model server sent an event that is not a JSON object.")
        if (error := found.get("error", NULL)) != NULL:
            raise refusal_event(data, _plain(error))
        if (usage := found.pop("usage", NULL)) != NULL:
            used = self._usage.read_raw(usage, True)
            if used is NOT:
                found["usage"] = usage
            else:
                self._used = used
        choices = found.pop("choices", NULL)
        if choices != NULL and not self._choices(choices):
            found["choices"] = choices
        if found.get("object") == self._object:
            del found["object"]
        self._of_answer(found, pieces)

    def _of_answer(self, found: dict[str, Raw], pieces: list[P]) -> None:
        """What an event says of the answer as such: the first begins it, later ones say what is new."""
        if not self._begun:
            self._begun = True
            self._told.update(found)
            chat = self._kind is chat_pb2.StreamChatResponse
            self._quick = QuickReader(found, self._object, chat=chat)
            self._piece.fields["start"] = self._start.read(found, True)
            return
        told = self._told
        for key, raw in found.items():
            if told.get(key) == raw or (raw == NULL and (key in MEANT_NOTHING or key in self._start.readers)):
                continue
            told[key] = raw
            self._quick = None if key in ALWAYS else self._quick
            if key in self._piece.extra:
                self._flush(pieces)
            self._piece.extra[key] = raw

    def _choices(self, raw: Raw) -> bool:
        """Reads an event's choices; False if they are none."""
        choices = elements(raw)
        if choices is None:
            return False
        found = [members(one) for one in choices]
        read = [(one, INT32.read(one.get("index", NULL))) for one in found if one is not None]
        if len(read) < len(found) or any(index is NOT for _, index in read):
            return False
        for one, index in read:
            self._choice(one, index)
        return True

    def _choice(self, found: dict[str, Raw], index: int) -> None:
        finish, stop = found.pop("finish_reason", NULL), found.pop("stop_reason", NULL)
        if finish != NULL and (reason := TEXT.read(finish)) is not NOT:
            end: Fields = {"index": index, "finish_reason": reason}
            if stop != NULL:
                end["stop_reason_json"] = bytes(stop).decode()
            self._ends[index] = end
            self._open.discard(index)
        else:
            found |= {key: one for key, one in (("finish_reason", finish), ("stop_reason", stop)) if one != NULL}
        self._delta_of({**self._delta.read(found, True), "index": index})

    def _delta_of(self, delta: Fields) -> None:
        """Takes a piece of a choice, which is open from its first piece on."""
        index = delta["index"]
        if index not in self._ends:
            self._open.add(index)
        for key in ("text", "tool_calls"):  # whose fields know no difference between empty and nothing
            if not delta.get(key, True):
                del delta[key]
        if len(delta) > 1:
            self._piece.deltas.append(delta)

    def _flush(self, pieces: list[P]) -> None:
        piece, self._piece = self._piece, _Piece()
        fields = piece.fields
        if piece.deltas:
            fields["deltas"] = piece.deltas
        if piece.extra:
            fields[EXTRA] = object_text(piece.extra)
        if fields:
            pieces.append(self._kind(**fields))


def chat_stream() -> StreamReader[chat_pb2.StreamChatResponse]:
    """Reads the events of a chat."""
    return StreamReader(chat_pb2.StreamChatResponse, "chat.completion.chunk")


def completion_stream() -> StreamReader[completions_pb2.StreamCompleteResponse]:
    """Reads the events of a completion."""
    return StreamReader(completions_pb2.StreamCompleteResponse, "text_completion")


def _held(kind: Any, name: str) -> Descriptor:
    kind_of: Descriptor = kind.DESCRIPTOR.fields_by_name[name].message_type
    return kind_of


def _plain(raw: Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
