"""Moments as people say them: `30d` ago, or a date."""

from __future__ import annotations

import datetime
import re
from typing import Final

import typer

_AGO: Final = re.compile(r"([0-9]{1,6})([mhdw])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_moment(text: str, now: datetime.datetime | None = None) -> datetime.datetime:
    """A moment: so long ago (`90m`, `12h`, `30d`, `4w`), or a date or time in ISO 8601, in UTC unless it says
    otherwise. Raises typer.BadParameter.
    """
    if (match := _AGO.fullmatch(text)) is not None:
        now = now or datetime.datetime.now(datetime.UTC)
        try:
            return now - datetime.timedelta(**{_UNITS[match[2]]: int(match[1])})
        except OverflowError:
            return datetime.datetime.fromtimestamp(0, datetime.UTC)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        message = f"a moment is so long ago (90m, 12h, 30d, 4w) or a date (2026-11-21); not {text!r}"
        raise typer.BadParameter(message) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=datetime.UTC)
