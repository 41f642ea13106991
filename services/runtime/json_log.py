"""Log records as JSON lines, by the standard library alone: for the worker, which has no structlog."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from services.core import tracing

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def extras(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as `extra`, and the span in whose course it was said."""
    given = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    return given if "trace_id" in given else {**given, **tracing.log_fields(tracing.current.get())}


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, service, logger, event, then the record's extras."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "event": record.getMessage(),
            **extras(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """One readable line a record, for terminals."""

    def __init__(self, service: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)-8s {service}: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 logging's own name
        """The line without a traceback."""
        told = " ".join(f"{key}={value}" for key, value in extras(record).items())
        return f"{super().formatMessage(record)}  {told}".rstrip()


def set_up_plain_logging(service: str, level: str = "info", stream: TextIO | None = None) -> None:
    """Sends all logging to standard error: readable on a terminal, JSON otherwise."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter(service) if stream.isatty() else JsonFormatter(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
