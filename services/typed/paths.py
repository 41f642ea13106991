"""Where in a typed request stands what an error about its JSON names. Pure."""

from __future__ import annotations

import re
from typing import Final

from google.protobuf.descriptor import Descriptor

from services.typed.messages import shape_of
from services.typed.shape import EXTRA

_STEP: Final = re.compile(r"[^.\[\]]+")


def field_path(kind: Descriptor, param: str) -> str:
    """The path of the field for a parameter as servers name it (`temperature`, `body.messages.0.content`), as far as it
    goes; `extra_json` for one that has no field.
    """
    steps = _STEP.findall(param)
    if steps[:1] == ["body"]:
        steps = steps[1:]
    path = ""
    message: Descriptor | None = kind
    for step in steps:
        if step.isdecimal():
            path = f"{path}[{step}]" if path else path
            continue
        if message is None:
            break
        reader = shape_of(message).readers.get(step)
        if reader is None:
            return path or EXTRA
        names = [reader.inside, reader.name or step] if reader.inside else [reader.name or step]
        path = ".".join([path, *names] if path else names)
        holder = message.fields_by_name[reader.inside].message_type if reader.inside else message
        field = None if holder is None else holder.fields_by_name.get(reader.name)
        message = None if field is None else field.message_type
    return path
