"""Streamed answers: events of OpenAI's JSON to typed pieces. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Generic

from msgspec import Raw
from weft.inference.v1 import chat_pb2, completions_pb2

from services.core.errors import Reason, ServiceError
from services.typed.events import EventReader, events
from services.typed.pieces import Kind, P, Pieces
from services.typed.quick import ALWAYS, ChatEvent, QuickReader, TextEvent
from services.typed.raw import NULL, elements, members
from services.typed.refusals import refusal_event
from services.typed.shape import EXTRA
from services.typed.templates import Template, texts_between
from services.typed.values import INT32, NOT, TEXT

DONE: Final = b"[DONE]"
_WORD: Final = b" \xe2\x80\x94 "
"""What parts a heartbeat's word from its sentence: see `services/router/heartbeat.py`."""


class StreamReader(Generic[P]):
    """Takes the bytes of a stream of events, gives pieces of the typed answer: what came together, in one piece."""

    def __init__(self, kind: Kind[P]) -> None:
        self._kind: Kind[P] = kind
        self._events = EventReader()
        self._quick = QuickReader(kind.decode, kind.constant)
        self._pieces: Pieces[P] = Pieces(kind)
        self._done = False

    def feed(self, chunk: bytes) -> Iterator[P]:
        """The pieces that these bytes complete; then raises what an event tells that is an error, and UPSTREAM_BROKEN
        for one that is none at all.
        """
        broken: ServiceError | None = None
        try:
            self._read(self._events.whole(chunk))
        except ServiceError as error:
            broken = error
        except UnicodeDecodeError:
            broken = ServiceError(Reason.UPSTREAM_BROKEN, "The model server sent an event that is not UTF-8.")
        yield from self._pieces.flush()
        if broken is not None:
            raise broken

    def end(self) -> P | None:
        """The last piece, unless it has come already. Raises UPSTREAM_BROKEN if the answer was cut."""
        if self._pieces.ended:
            return None
        self._pieces.end(self._done)
        (last,) = self._pieces.flush()
        return last

    def _read(self, text: bytes) -> None:
        """Reads events: those in a row that differ in nothing but a text all at once, the others one by one."""
        if not text or self._done:
            return
        before, *parts = (b"\n\n" + text).split(b"\n\ndata: ")
        if before:
            self._other(before)
        template = self._quick.template
        run: list[bytes] = []
        for part in parts:
            middle = part.removeprefix(template.head).removesuffix(template.tail)
            if len(part) - len(middle) == template.size:
                run.append(middle)
                continue
            if run:
                self._alike(template, run)
                run = []
            if b"\n" in part:
                self._other(b"data: " + part)
            else:
                self._data(part)
            template = self._quick.template
        if run:
            self._alike(template, run)
        if self._done:
            self._pieces.end(done=True)

    def _other(self, text: bytes) -> None:
        """Reads events of any form."""
        for event in events(text):
            if not event.comment:
                self._data(event.data)
            elif not self._done and not self._pieces.begun:
                detail = event.data.partition(_WORD)[2] if event.data.startswith(b"weft ") else event.data
                self._pieces.progress(detail.decode("utf-8", "replace"))

    def _alike(self, template: Template, run: list[bytes]) -> None:
        """Reads events that have these bytes in the template's place."""
        texts = texts_between(run)
        if texts is None:
            for middle in run:
                self._other(b"data: " + template.head + middle + template.tail)
        elif not self._done:
            self._pieces.texts(template.choice, template.key, texts)

    def _data(self, data: bytes) -> None:
        if self._done:
            return
        if data == DONE:
            self._done = True
            return
        data.decode()  # what msgspec leaves as it stands, it does not check
        event = self._quick.read(data)
        if event is not None and (self._pieces.begun or self._begin(event)):
            self._usual(event, data)
        else:
            self._any(data)

    def _begin(self, event: Any) -> bool:
        """Begins by an event that was read quickly; False if it says its members in no usual way."""
        found = {"id": event.id, "created": event.created, "model": event.model}
        start = self._kind.start.read(found, True)
        if EXTRA in start:
            return False
        self._quick.begin(found)
        self._pieces.begin(found, start)
        return True

    def _usual(self, event: Any, data: bytes) -> None:
        for one in event.choices:
            said = one.fields()
            if one.finish_reason is not None:
                self._pieces.end_choice(one.index, one.finish_reason, one.stop_reason)
            elif len(event.choices) == 1 and event.usage is None:
                self._quick.learn(data, said)
            self._pieces.delta(said)
        if event.usage is not None:
            self._pieces.used = event.usage.fields()

    def _any(self, data: bytes) -> None:
        found = members(data)
        if found is None:
            raise ServiceError(Reason.UPSTREAM_BROKEN, "The model server sent an event that is not a JSON object.")
        if (error := found.get("error", NULL)) != NULL:
            raise refusal_event(data, error)
        if (usage := found.pop("usage", NULL)) != NULL:
            used = self._kind.usage.read_raw(usage, True)
            if used is NOT:
                found["usage"] = usage
            else:
                self._pieces.used = used
        choices = found.pop("choices", NULL)
        if choices != NULL and not self._choices(choices):
            found["choices"] = choices
        if found.get("object") == self._kind.constant:
            del found["object"]
        if not self._pieces.begun:
            self._quick.begin(found)
            self._pieces.begin(found, self._kind.start.read(found, True))
        elif not ALWAYS.isdisjoint(self._pieces.tell(found)):
            self._quick.stop()

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
            self._pieces.end_choice(index, reason, stop)
        else:
            found |= {key: one for key, one in (("finish_reason", finish), ("stop_reason", stop)) if one != NULL}
        self._pieces.delta({**self._kind.delta.read(found, True), "index": index})


_CHAT: Final = Kind(chat_pb2.StreamChatResponse, "chat.completion.chunk", ChatEvent)
_COMPLETION: Final = Kind(completions_pb2.StreamCompleteResponse, "text_completion", TextEvent)


def chat_stream() -> StreamReader[chat_pb2.StreamChatResponse]:
    """Reads the events of a chat."""
    return StreamReader(_CHAT)


def completion_stream() -> StreamReader[completions_pb2.StreamCompleteResponse]:
    """Reads the events of a completion."""
    return StreamReader(_COMPLETION)
