"""Text for a template that is Jinja, then YAML, then shell: each layer quoted, and none relying on the next.

What a user sends arrives in the template as JSON text with its quotes (the agent sees to it), so inside a double-quoted
YAML scalar, whose escapes JSON's are among, a value is spliced with its quotes cut off.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Expr:
    """A Jinja expression that gives text as it may stand within a double-quoted YAML scalar, or a number."""

    source: str


@dataclass(frozen=True, slots=True)
class Raw:
    """A Jinja expression that gives a whole YAML scalar."""

    source: str


Pieces = tuple[str | Expr, ...]
"""Text of pieces that are known now, and of pieces that the agent's Jinja puts in."""


@dataclass(frozen=True, slots=True)
class Text:
    """A YAML scalar made of pieces."""

    pieces: Pieces


Value = str | int | float | bool | None | Raw | Text | Sequence["Value"] | Mapping[str, "Value"]


def given(name: str) -> Expr:
    """The user's variable, quoted for the shell, within other text."""
    return Expr(f"({name} | shell_escape)[1:-1]")


def bare(name: str) -> Expr:
    """The user's variable as it is, within other text; for what the schema holds to harmless characters."""
    return Expr(f"{name}[1:-1]")


def jinja_literal(text: str) -> str:
    """A Jinja string literal of the JSON text of `text`: how the agent hands over a user's text."""
    encoded = json.dumps(text)
    return "'" + encoded.replace("\\", "\\\\").replace("'", "\\'") + "'"


def emit(value: Value, depth: int = 0) -> str:
    """A value as YAML, from the line of its key on."""
    pad = "  " * depth
    if isinstance(value, Mapping):
        return "".join(f"\n{pad}{key}:{emit(inner, depth + 1)}" for key, inner in value.items())
    if isinstance(value, Raw):
        return f" {{{{ {value.source} }}}}"
    if isinstance(value, Text):
        return f' "{_lines(value.pieces, pad)}"'
    if isinstance(value, str):
        return f' "{_lines((value,), pad)}"'
    if isinstance(value, Sequence):
        return "".join(f"\n{pad}-{emit(inner, depth + 1)}" for inner in value) or " []"
    return " " + json.dumps(value)


def shell_words(words: Sequence[str]) -> str:
    """Words as one line of shell; `{port}` alone stays as it is."""
    return " ".join(word if word == "{port}" else shlex.quote(word) for word in words)


def shell_path(path: str) -> str:
    """A path for the shell, with a home that the node knows."""
    return f'"$HOME"/{shlex.quote(path[2:])}' if path.startswith("~/") else shlex.quote(path)


def _lines(text: Pieces, pad: str) -> str:
    """The inside of a double-quoted scalar; a text of several lines is written as several."""
    lines = [""]
    for piece in text:
        if isinstance(piece, Expr):
            lines[-1] += f"{{{{ {piece.source} }}}}"
            continue
        first, *rest = piece.split("\n")
        lines[-1] += _escape(first)
        for part in rest:
            lines[-1] += "\\n"
            lines.append(_escape(part))
    if not lines[-1]:
        lines.pop()
    if len(lines) < 2:
        return "".join(lines)
    # A backslash at the end of a line joins it to the next, whose first blanks count only behind another.
    folded = [f"\\{line}" if line.startswith(" ") else line for line in lines]
    return f"\\\n{pad}" + f"\\\n{pad}".join(folded) + f"\\\n{pad}"


def _escape(text: str) -> str:
    encoded = json.dumps(text, ensure_ascii=False)[1:-1]
    # What Jinja would take for its own; U+2028 and its like, which JSON leaves and YAML folds.
    encoded = re.sub(r"[\x7f-\xa0\u2028\u2029\ufeff]", lambda match: f"\\u{ord(match[0]):04x}", encoded)
    return re.sub(r"\{(?=[{%#]|$)", "{{ '{' }}", encoded)
