"""Messages and JSON objects: each field is a member of the field's name, and the rest stands in `extra_json`. Pure.

What is otherwise is said in `rules.py`. A member is read into its field only where the field, written, gives that
value again; from every other one nothing is lost, as it stays as it is, in `extra_json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from msgspec import Raw

from services.typed.nothing import MEANT_NOTHING
from services.typed.raw import NULL, FieldError, elements, members, object_text, unique_members
from services.typed.values import NOT, RAW, SCALARS, Value, at, listed, mapped

EXTRA: Final = "extra_json"

Tree = dict[str, Any]
"""An object for msgspec to encode."""

Fields = dict[str, Any]
"""The arguments of a message's constructor."""


class Writer(NamedTuple):
    """Where a field goes. Without a `key`, it is an object whose members stand here."""

    name: str
    key: str
    write: Callable[[Any, bool], Any] | None


class Reader(NamedTuple):
    """Which field a member goes to, in the message that the field `inside` holds, if that is not empty. Without a
    `name`, the value that is read is fields by their names. `implicit` tells that the field knows no difference between
    its default and nothing; `oneof`, that it excludes others.
    """

    name: str
    read: Callable[[Raw, bool], Any]
    implicit: bool
    inside: str = ""
    oneof: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """What is special about a kind of message. `keys` are the names of members by those of fields; `values` are fields
    with values of their own kind; `reads` are members that several fields share; `flat` are fields whose members stand
    among the others; `constants` are members that say what an object is.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Value] = field(default_factory=dict)
    reads: Mapping[str, Callable[[Raw, bool], Any]] = field(default_factory=dict)
    flat: frozenset[str] = frozenset()
    constants: Mapping[str, Raw] = field(default_factory=dict)


class Shape:
    """How messages of one kind are written and read; `answer` tells everywhere that it is an answer, in which null
    means nothing, numbers are written even where they are 0, and constants stand.
    """

    def __init__(self, kind: Descriptor, rules: Rules, shape_of: Callable[[Descriptor], Any]) -> None:
        self.kind = kind
        self.writers: dict[int, Writer] = {}
        self.readers: dict[str, Reader] = {}
        self.numbers: list[str] = []
        """Members that an answer always has."""
        self.constants = dict(rules.constants)
        self.has_extra = EXTRA in kind.fields_by_name
        for one in kind.fields:
            if one.name not in (EXTRA, "cluster"):
                self._add(one, rules, shape_of)

    def _add(self, one: FieldDescriptor, rules: Rules, shape_of: Callable[[Descriptor], Any]) -> None:
        oneof = one.containing_oneof.name if one.containing_oneof and len(one.containing_oneof.fields) > 1 else ""
        if one.name in rules.flat:
            assert one.message_type is not None
            inner = shape_of(one.message_type)
            self.writers[one.number] = Writer(one.name, "", inner.write)
            for key, reader in inner.readers.items():
                self.readers[key] = reader._replace(inside=one.name, oneof=oneof)
            return
        key = rules.keys.get(one.name, one.name.removesuffix("_json"))
        write, read = _codec(one, rules, shape_of)
        self.writers[one.number] = Writer(one.name, key, write)
        if key in rules.reads:
            self.readers[key] = Reader("", rules.reads[key], implicit=False)
            return
        self.readers[key] = Reader(one.name, read, not one.has_presence, oneof=oneof)
        if not one.has_presence and not one.is_repeated and one.cpp_type != FieldDescriptor.CPPTYPE_STRING:
            self.numbers.append(key)

    def write(self, message: Message, answer: bool) -> Tree:
        """The message as an object. Raises `FieldError`."""
        tree: Tree = {}
        writers, extra = self.writers, ""
        for one, value in message.ListFields():
            writer = writers.get(one.number)
            if writer is None:
                extra = value if one.name == EXTRA else extra
            elif writer.write is None:
                tree[writer.key] = value
            else:
                try:
                    written = writer.write(value, answer)
                except FieldError as error:
                    raise error.within(writer.name) from None
                if writer.key:
                    tree[writer.key] = written
                else:
                    tree.update(written)
        if extra:
            add_extra(tree, extra)
        if answer:
            for key in self.numbers:
                tree.setdefault(key, 0)
            for key, constant in self.constants.items():
                tree.setdefault(key, constant)
        return tree

    def read(self, found: Mapping[str, Raw], answer: bool) -> Any:
        """The fields of a message with these members; NOT if one has no place in it."""
        fields: Fields = {}
        extra = self.take(self.readers, found, answer, fields)
        if extra:
            if not self.has_extra:
                return NOT
            fields[EXTRA] = object_text(extra)
        return fields

    def take(
        self, readers: Mapping[str, Reader], found: Mapping[str, Raw], answer: bool, fields: Fields
    ) -> dict[str, Raw]:
        """Reads members into fields, and returns those that fit none."""
        extra: dict[str, Raw] = {}
        chosen: set[str] = set()
        for key, raw in found.items():
            reader = readers.get(key)
            if raw == NULL:
                if not answer or (reader is None and key not in MEANT_NOTHING):
                    extra[key] = raw
                continue
            if reader is None:
                if not answer or self.constants.get(key) != raw:
                    extra[key] = raw
                continue
            value = NOT if reader.oneof in chosen else reader.read(raw, answer)
            if value is NOT or (reader.implicit and not answer and not value):
                extra[key] = raw
                continue
            if reader.oneof:
                chosen.add(reader.oneof)
            into = fields.setdefault(reader.inside, {}) if reader.inside else fields
            if reader.name:
                into[reader.name] = value
            else:
                into.update(value)
        return extra

    def read_raw(self, raw: Raw, answer: bool) -> Any:
        """The same of an object's text; NOT if it is no object, or one that has a member twice."""
        if answer:
            found = members(raw)
            return NOT if found is None else self.read(found, answer)
        try:
            return self.read(unique_members(bytes(raw).decode()), answer)
        except (FieldError, UnicodeDecodeError):
            return NOT


def add_extra(tree: Tree, text: str) -> None:
    """Puts in further members. Raises `FieldError`."""
    try:
        extra = unique_members(text)
        for key in extra:
            if key in tree:
                raise FieldError("", f"has the member '{key}', which has a field of its own that is set too")
    except FieldError as error:
        raise error.within(EXTRA) from None
    tree.update(extra)


def _codec(
    one: FieldDescriptor, rules: Rules, shape_of: Callable[[Descriptor], Any]
) -> tuple[Callable[[Any, bool], Any] | None, Callable[[Raw, bool], Any]]:
    """How the values of a field are written and read."""
    if one.name in rules.values:
        return _of_value(rules.values[one.name])
    if one.message_type is None:
        value = RAW if one.name.endswith("_json") else SCALARS[one.type]
        return _of_value(listed(value) if one.is_repeated else value)
    if one.message_type.GetOptions().map_entry:
        return _of_value(mapped(SCALARS[one.message_type.fields_by_name["value"].type]))
    shape = shape_of(one.message_type)
    if not one.is_repeated:
        return shape.write, shape.read_raw
    return _repeated(shape)


def _of_value(value: Value) -> tuple[Callable[[Any, bool], Any] | None, Callable[[Raw, bool], Any]]:
    write, read = value
    return None if write is None else lambda one, _: write(one), lambda raw, _: read(raw)


def _repeated(shape: Any) -> tuple[Callable[[Any, bool], Any], Callable[[Raw, bool], Any]]:
    def write(messages: Any, answer: bool) -> list[Any]:
        return [at(f"[{i}]", lambda one: shape.write(one, answer), one) for i, one in enumerate(messages)]

    def read(raw: Raw, answer: bool) -> Any:
        found = elements(raw)
        if found is None:
            return NOT
        values = [shape.read_raw(one, answer) for one in found]
        return NOT if any(one is NOT for one in values) else values

    return write, read
