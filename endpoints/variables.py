"""What a start may say in its `user_endpoint_config`: the schema that refuses everything else, and the defaults."""

from __future__ import annotations

import re
from typing import Any

from endpoints.mistakes import EndpointFilesError
from endpoints.settings import Settings
from endpoints.site import Choice, Site

ENDPOINT_PATTERN = r"clusters/{id}/endpoints/{id}".replace("{id}", r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_WORD_PATTERN = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_TIME = re.compile(r"(\d{1,3}):([0-5]\d):([0-5]\d)")


def choices(site: Site, settings: Settings) -> dict[str, Choice]:
    """The site's variables by their names in the template, without the walltime."""
    if settings.purpose == "queue-status" or site.scheduler == "local":
        return {}
    named = {"account": site.account, "partition" if site.scheduler == "slurm" else "queue": site.queue}
    if site.scheduler == "slurm":
        named["qos"] = site.qos
    return {name: choice for name, choice in named.items() if choice is not None}


def has_walltime(site: Site, settings: Settings) -> bool:
    """Whether jobs there have an end."""
    return site.scheduler != "local" and settings.purpose != "queue-status"


def schema(site: Site, settings: Settings) -> dict[str, Any]:
    """The JSON schema of the variables. Raises EndpointFilesError."""
    properties: dict[str, Any] = {
        "weft_endpoint": {
            "type": "string",
            "pattern": _whole(ENDPOINT_PATTERN),
            "description": "The resource name of the endpoint in Weft; the launcher sends it.",
        },
        "weft_slot": {
            "type": "integer",
            "minimum": 0,
            "maximum": settings.max_slots - 1,
            "description": "The worker's number at its endpoint; the launcher sends it.",
        },
    }
    required = [] if settings.purpose == "queue-status" else ["weft_endpoint", "weft_slot"]
    for name, choice in choices(site, settings).items():
        properties[name] = _choice(name, choice)
        if choice.default is None:
            required.append(name)
    if has_walltime(site, settings):
        if seconds(site.walltime.default) == 0:
            raise EndpointFilesError("site.walltime.default 00:00:00 is no time: Slurm would set no limit at all.")
        if seconds(site.walltime.default) > seconds(site.walltime.maximum):
            raise EndpointFilesError(
                f"site.walltime.default {site.walltime.default} is above site.walltime.maximum {site.walltime.maximum}."
            )
        properties["walltime"] = {
            "type": "string",
            # To Slurm, a limit of no time is no limit.
            "pattern": _whole(f"(?!0+:00:00){times_up_to(site.walltime.maximum)}"),
            "description": f"How long the job may last, as HH:MM:SS, up to {site.walltime.maximum}.",
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def seconds(time: str) -> int:
    """HH:MM:SS as seconds. Raises EndpointFilesError."""
    match = _TIME.fullmatch(time)
    if match is None:
        raise EndpointFilesError(f"A walltime looks like 06:00:00 (in YAML with quotes around it), not like {time!r}.")
    return int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3])


def times_up_to(maximum: str) -> str:
    """A regular expression for the times HH:MM:SS up to this one."""
    total = seconds(maximum)
    hours, minutes, rest = total // 3600, total // 60 % 60, total % 60
    width = max(2, len(str(hours)))
    cases = []
    if hours:
        below = _numbers_below(hours, width)
        cases.append(f"({below}):[0-5][0-9]:[0-5][0-9]")
    if minutes:
        cases.append(f"{hours:0{width}d}:({_numbers_below(minutes, 2)}):[0-5][0-9]")
    cases.append(f"{hours:0{width}d}:{minutes:02d}:({_numbers_below(rest + 1, 2)})")
    return f"({'|'.join(cases)})"


def _numbers_below(limit: int, width: int) -> str:
    """A regular expression for 0 ≤ n < limit, written with `width` digits or, above two, with fewer."""
    digits, cases = f"{limit:0{width}d}", []
    for place, digit in enumerate(digits):
        if digit != "0":
            lower = "0" if digit == "1" else f"[0-{int(digit) - 1}]"
            cases.append(digits[:place] + lower + "[0-9]" * (width - place - 1))
    if width > 2:  # 99 hours and fewer are written with two digits
        cases.append("[0-9][0-9]")
    return "|".join(cases)


def _choice(name: str, choice: Choice) -> dict[str, Any]:
    for text in (*choice.allowed, *([choice.default] if choice.default is not None else [])):
        if re.fullmatch(_WORD_PATTERN, text) is None:
            raise EndpointFilesError(
                f"site: {name} {text!r} is no single word of letters, digits and '._-', which a scheduler's directive "
                "can hold."
            )
    if choice.default is not None and choice.allowed and choice.default not in choice.allowed:
        raise EndpointFilesError(f"site: the default {name} {choice.default!r} is not among the allowed ones.")
    if choice.allowed:
        return {"type": "string", "enum": list(choice.allowed)}
    return {"type": "string", "pattern": _whole(_WORD_PATTERN)}


def _whole(pattern: str) -> str:
    # Not `$`: Python, whose `re` the agent uses, lets a line break stand behind it.
    return f"^{pattern}(?![\\s\\S])"
