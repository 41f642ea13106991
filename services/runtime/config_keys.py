"""What keys a section may have, at any depth, and which known key a wrong one is nearest to."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from msgspec import inspect

_STEP: Final = re.compile(r"\.([^.\[]+)|\[[^]]*\]")


def unknown_keys(kind: type[Any], value: Any) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """The path of each key that the type does not have, with the keys that it has in that place."""
    yield from _unknown(inspect.type_info(kind), value, ())


def _unknown(kind: inspect.Type, value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    if isinstance(kind, inspect.UnionType):
        # At most one member of a union can hold keys: msgspec could not tell two apart.
        for member in kind.types:
            yield from _unknown(member, value, path)
    elif isinstance(kind, inspect.StructType | inspect.DataclassType) and isinstance(value, dict):
        fields = {field.encode_name: field.type for field in kind.fields}
        for key, inner in value.items():
            if key in fields:
                yield from _unknown(fields[key], inner, (*path, str(key)))
            else:
                yield (*path, str(key)), list(fields)
    elif isinstance(kind, inspect.DictType) and isinstance(value, dict):
        for key, inner in value.items():
            yield from _unknown(kind.value_type, inner, (*path, str(key)))
    elif isinstance(kind, inspect.ListType | inspect.VarTupleType) and isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _unknown(kind.item_type, inner, (*path, str(index)))


def nearest(key: str, known: Iterable[str]) -> str:
    """Words that lead from a wrong key to the right one."""
    known = sorted(known)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"the nearest known is {close[0]!r}" if close else f"known are {', '.join(known)}"


def choices(kind: type[Any], where: str) -> list[str]:
    """The words that may stand at a place, `.limits.on_excess` as msgspec names it; none where any may."""
    found = inspect.type_info(kind)
    for step in _STEP.finditer(where):
        found = _below(_present(found), step[1])
    found = _present(found)
    return sorted(repr(value) for value in found.values) if isinstance(found, inspect.LiteralType) else []


def _present(kind: inspect.Type) -> inspect.Type:
    """Of something that may be None, what it is otherwise."""
    if isinstance(kind, inspect.UnionType):
        return next(member for member in kind.types if not isinstance(member, inspect.NoneType))
    return kind


def _below(kind: inspect.Type, key: str | None) -> inspect.Type:
    if isinstance(kind, inspect.StructType | inspect.DataclassType):
        return next((field.type for field in kind.fields if field.encode_name == key), inspect.AnyType())
    if isinstance(kind, inspect.DictType):
        return kind.value_type
    return kind.item_type if isinstance(kind, inspect.ListType | inspect.VarTupleType) else inspect.AnyType()
