"""Logging of the services: structlog's rendering of what goes through the standard library's `logging`."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal, TextIO

import msgspec
import structlog

from services.core import tracing

Level = Literal["debug", "info", "warning", "error"]


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `log`."""

    level: Level = "info"
    format: Literal["auto", "text", "json"] = "auto"
    """`auto` is text on a terminal, JSON elsewhere."""


def set_up_logging(service: str, config: LogConfig, stream: TextIO | None = None) -> None:
    """Sends all logging to standard error, with the service's name in every line, and the span in whose course it was
    said.
    """
    stream = stream or sys.stderr
    as_text = config.format == "text" or (config.format == "auto" and stream.isatty())

    def name_origin(_: Any, __: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        entry["service"] = service
        entry.pop("color_message", None)  # uvicorn says everything twice
        if "trace_id" not in entry:
            entry.update(tracing.log_fields(tracing.current.get()))
        return entry

    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if as_text else "iso", utc=not as_text, key="time"),
        name_origin,
    ]
    rendering: list[Any] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(),
                timestamp_key="time",
                # The default, by rich, shows the variables of every frame, among them what callers authenticate with.
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
        if as_text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logging.basicConfig(level=config.level.upper(), handlers=[handler], force=True)
