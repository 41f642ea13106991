"""What keys a section may have, at any depth, and which known key a wrong one is nearest to."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import inspect


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
