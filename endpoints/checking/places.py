"""On which line of a file something stands."""

from __future__ import annotations

import re
from collections.abc import Sequence

import yaml


def line_of(text: str, path: Sequence[str]) -> int:
    """The line of a key in a YAML text, by the way to it; of the last step of it that is there; 0 if none is."""
    try:
        node = yaml.compose(text)
    except yaml.YAMLError:
        return 0
    line = 0
    for step in path:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == step:
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                return line
        elif isinstance(node, yaml.SequenceNode) and step.isdigit() and int(step) < len(node.value):
            node = node.value[int(step)]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def line_of_key(text: str, path: Sequence[str]) -> int:
    """The same in a template, which is not YAML before it is rendered: the keys in turn, from the top."""
    line = 0
    lines = text.splitlines()
    for step in path:
        found = next(
            (n for n in range(line, len(lines)) if re.match(rf"\s*(- )?{re.escape(step)}\s*:", lines[n])), None
        )
        if found is None:
            return line
        line = found + 1
    return line


def line_with(text: str, part: str) -> int:
    """The first line that contains `part`; 0 if none does."""
    return next((number for number, line in enumerate(text.splitlines(), 1) if part in line), 0)
