"""Reads the fields of one object, and gathers every complaint about them rather than stop at the first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from services.runtime.config_keys import nearest


class Problems:
    """What is wrong with the files, a sentence each."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def add(self, where: str, what: str) -> None:
        """`where` is a file, or an entry of one."""
        self.sentences.append(f"{where}: {what}")

    def mention(self, beginning: str) -> bool:
        """Whether something wrong was found that begins with these words."""
        return any(sentence.startswith(beginning) for sentence in self.sentences)


class Fields:
    """The fields of an entry, or of an object in it. Each is asked for by name; `finish` then complains of those that
    nobody asked for.
    """

    def __init__(self, where: str, values: Mapping[str, Any], problems: Problems, path: str = "") -> None:
        self.where = where
        self._values = values
        self._problems = problems
        self._path = path
        self._asked: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def faulty(self, name: str) -> bool:
        """Whether something is wrong with the field, with the object that it is in, or with an item of it."""
        paths = (f"{name}'", f"{name.partition('.')[0]}'", f"{name}[")
        return any(self._problems.mention(f"{self.where}: field '{path}") for path in paths)

    def complain(self, name: str, what: str) -> None:
        """Says what is wrong with a field."""
        self._problems.add(self.where, f"field '{self._path}{name}' {what}")

    def raw(self, name: str) -> Any:
        """The value as it stands there, None if it is absent."""
        self._asked.add(name)
        return self._values.get(name)

    def text(self, name: str, *, required: bool = False) -> str:
        """A text without the spaces around it; empty if it is absent or null."""
        value = self.raw(name)
        if value is None:
            value = ""
        if not isinstance(value, str):
            self.complain(name, f"must be text, not {_shown(value)}")
        elif required and not value.strip():
            self.complain(name, "is missing" if name not in self._values else "must not be empty")
        else:
            return value.strip()
        return ""

    def number(self, name: str) -> int:
        """A whole number of at least 0; 0 if it is absent or null."""
        value = self.raw(name)
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            self.complain(name, f"must be a whole number of at least 0, not {_shown(value)}")
            return 0
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts, or a text that holds them with commas between."""
        value = self.raw(name)
        if isinstance(value, str):
            value = value.split(",")
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.complain(name, f"must be a list of texts, or one text with commas, not {_shown(value)}")
            return ()
        return tuple(dict.fromkeys(item.strip() for item in value if item.strip()))

    def inner(self, name: str) -> Fields:
        """An object, or a text that holds one as JSON; empty if it is absent."""
        value = self._decoded(name)
        if value is None or value == "":
            value = {}
        if not isinstance(value, dict):
            self.complain(name, f"must be an object, or its JSON as text, not {_shown(value)}")
            value = {}
        # What is missing in an object that could not be read is no second problem.
        problems = Problems() if self.faulty(f"{self._path}{name}") else self._problems
        return Fields(self.where, value, problems, f"{self._path}{name}.")

    def list_of(self, name: str) -> list[Fields]:
        """A list of objects, or a text that holds one as JSON."""
        value = self._decoded(name)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.complain(name, "is missing" if value is None else f"must be a list of objects, not {_shown(value)}")
            return []
        paths = [f"{self._path}{name}[{index}]." for index in range(len(value))]
        return [Fields(self.where, item, self._problems, path) for item, path in zip(value, paths, strict=True)]

    def unsupported(self, name: str, *harmless: object) -> None:
        """A field of FIRST that Weft has nothing for: accepted only where it says nothing."""
        value = self.raw(name)
        if value not in (None, "", *harmless):
            self.complain(name, f"is {_shown(value)}, for which Weft has no setting; remove it to import without it")

    def finish(self) -> None:
        """Complains of fields that are not known."""
        for name in self._values:
            if name not in self._asked:
                self.complain(name, f"is not known; {nearest(name, self._asked)}")

    def _decoded(self, name: str) -> Any:
        value = self.raw(name)
        if not isinstance(value, str) or not value.strip():
            return value
        try:
            return json.loads(value)
        except (json.JSONDecodeError, RecursionError) as error:
            self.complain(name, f"is text that is not JSON: {error}")
            return None


def _shown(value: object) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
