"""Pieces of streams, whose fields stand in an object inside the JSON's. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor
from msgspec import Raw

from services.typed.raw import members, object_text
from services.typed.shape import EXTRA, Fields, Reader, Rules, Shape, Tree


class Nested(Shape):
    """A message of which some fields are the members of an object inside its own: `delta`, `function`. What else that
    object has stands in `extra_json` under its key.
    """

    def __init__(
        self, kind: Descriptor, rules: Rules, shape_of: Callable[[Descriptor], Any], under: str, names: frozenset[str]
    ) -> None:
        super().__init__(kind, rules, shape_of)
        self._under = under
        self._inner: dict[str, Reader] = {key: self.readers.pop(key) for key in names}

    def write(self, message: Any, answer: bool) -> Tree:
        """See `Shape.write`."""
        tree = super().write(message, answer)
        inner: Tree = {key: tree.pop(key) for key in self._inner if key in tree}
        extra = tree.pop(self._under, None)
        if extra is not None and (found := members(extra)) is not None:
            inner.update(found)
        elif extra is not None:
            tree[self._under] = extra  # which is no object, so that no field was read from it
            return tree
        if inner or extra is not None:
            tree[self._under] = inner
        return tree

    def read(self, found: Mapping[str, Raw], answer: bool) -> Any:
        """See `Shape.read`."""
        nested = found.get(self._under)
        inner = None if nested is None else members(nested)
        outer = {key: raw for key, raw in found.items() if key != self._under or inner is None}
        fields: Fields = {}
        extra = self.take(self.readers, outer, answer, fields)
        if inner is not None and (rest := self.take(self._inner, inner, answer, fields)):
            extra[self._under] = Raw(object_text(rest).encode())
        if extra:
            fields[EXTRA] = object_text(extra)
        return fields
