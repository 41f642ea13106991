"""Log lines: the same fields from the services' logging and from the worker's."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import TextIO

import pytest

from services.core import tracing
from services.runtime.json_log import set_up_plain_logging
from services.runtime.logging import LogConfig, set_up_logging

SetUp = Callable[[TextIO], None]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(params=["structlog", "plain"])
def set_up(request: pytest.FixtureRequest) -> Iterator[SetUp]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield {
        "structlog": lambda stream: set_up_logging("router", LogConfig(), stream),
        "plain": lambda stream: set_up_plain_logging("router", stream=stream),
    }[request.param]
    root.handlers[:] = handlers
    root.setLevel(level)


def test_elsewhere_than_on_a_terminal_a_line_is_json(set_up: SetUp) -> None:
    stream = io.StringIO()
    set_up(stream)
    logging.getLogger("services.some").warning("lost %s", "a worker", extra={"endpoint": "clusters/a/endpoints/b"})
    entry = json.loads(stream.getvalue())
    assert entry.pop("time").startswith("20")
    assert entry == {
        "level": "warning",
        "service": "router",
        "logger": "services.some",
        "event": "lost a worker",
        "endpoint": "clusters/a/endpoints/b",
    }


def test_a_traceback_is_one_field(set_up: SetUp) -> None:
    stream = io.StringIO()
    set_up(stream)
    try:
        raise ValueError("no such thing")
    except ValueError:
        logging.getLogger("services.some").exception("failed")
    assert "ValueError: no such thing" in json.loads(stream.getvalue())["exception"]


def test_on_a_terminal_a_line_is_text(set_up: SetUp) -> None:
    stream = Terminal()
    set_up(stream)
    logging.getLogger("services.some").info("ready", extra={"address": "127.0.0.1:7000"})
    assert "ready" in stream.getvalue()
    assert "127.0.0.1:7000" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["file", "terminal"])
def test_a_traceback_shows_no_variables(set_up: SetUp, stream: TextIO) -> None:
    """They are what callers authenticate with, and what they ask."""

    def judge(credential: str) -> None:
        raise ValueError("not good")

    set_up(stream)
    try:
        judge("-".join(("weft", "s3cret")))
    except ValueError:
        logging.getLogger("services.some").exception("failed")
    said = stream.getvalue()  # type: ignore[attr-defined]
    assert "not good" in said
    assert "weft-s3cret" not in said


def test_what_is_below_the_level_is_left_out(set_up: SetUp) -> None:
    stream = io.StringIO()
    set_up(stream)
    logging.getLogger("services.some").debug("small talk")
    assert stream.getvalue() == ""


def test_a_line_bears_the_ids_of_the_span_in_whose_course_it_is_said(set_up: SetUp) -> None:
    stream = io.StringIO()
    set_up(stream)
    log = logging.getLogger("services.some")
    here, other = tracing.new_root(sampled=True), tracing.new_root(sampled=True)
    token = tracing.current.set(here)
    try:
        log.info("in its course")
        log.info("of another", extra=tracing.log_fields(other))
    finally:
        tracing.current.reset(token)
    log.info("outside")
    own, told, outside = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (own["trace_id"], own["span_id"]) == (here.trace_id, here.span_id)
    assert (told["trace_id"], told["span_id"]) == (other.trace_id, other.span_id)
    assert "trace_id" not in outside
