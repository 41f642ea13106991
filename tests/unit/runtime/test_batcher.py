"""Spans wait in a bounded queue, and whatever becomes of them, whoever records one goes on at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
from prometheus_client import REGISTRY

from services.core.tracing import Span
from services.runtime.telemetry.batcher import BATCH, QUEUE, SILENCE, Batcher
from tests.testing.clock import Clock
from tests.testing.exports import Kept, refused, span


def counted(sink: str, outcome: str) -> float:
    return REGISTRY.get_sample_value("weft_trace_spans_total", {"sink": sink, "outcome": outcome}) or 0


def test_all_are_handed_on_when_it_is_closed() -> None:
    kept = Kept()
    batcher = Batcher("closed", kept)
    for number in range(3 * BATCH):
        batcher.record(span(str(number)))
    batcher.close(10)
    assert [one.name for one in kept.spans] == [str(number) for number in range(3 * BATCH)]
    assert counted("closed", "exported") == 3 * BATCH
    assert kept.closed.is_set()


def test_what_a_sink_cannot_keep_up_with_is_dropped_and_counted() -> None:
    kept = Kept()
    kept.open.clear()
    batcher = Batcher("slow", kept)
    batcher.record(span("the first"))
    assert kept.entered.wait(10)
    for _ in range(QUEUE + 7):
        batcher.record(span())
    assert counted("slow", "dropped") == 7
    kept.open.set()
    batcher.close(10)
    assert len(kept.spans) == 1 + QUEUE


def test_a_sink_that_hangs_does_not_hold_up_the_end() -> None:
    kept = Kept()
    kept.open.clear()
    batcher = Batcher("hung", kept)
    batcher.record(span())
    assert kept.entered.wait(10)
    batcher.record(span())
    batcher.close(0.01)
    assert kept.closed.is_set()
    assert counted("hung", "dropped") == 1
    kept.open.set()


def test_a_failing_sink_is_told_of_once_a_minute_and_when_it_works_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    kept = Kept(refused)
    batcher = Batcher("failing", kept, clock=clock.time)
    for _ in range(5):
        batcher._export([span(), span()])
    assert [record.getMessage() for record in caplog.records] == [
        "spans are lost, calls go on: the collector is away; start it"
    ]
    clock.advance(SILENCE)
    batcher._export([span()])
    assert [vars(record)["lost"] for record in caplog.records] == [2, 11]
    kept.fails = lambda _: None
    batcher._export([span()])
    batcher._export([span()])
    assert [record.getMessage() for record in caplog.records][2:] == ["spans are kept again"]
    assert counted("failing", "failed") == 11
    batcher.close(10)


def test_a_span_that_cannot_be_written_is_lost_alone() -> None:
    def of_bad(spans: Sequence[Span]) -> Exception | None:
        return UnicodeError("surrogates") if any(one.name == "bad" for one in spans) else None

    kept = Kept(of_bad)
    batcher = Batcher("poisoned", kept)
    for name in ("one", "bad", "two"):
        batcher.record(span(name))
    batcher.close(10)
    assert [one.name for one in kept.spans] == ["one", "two"]
    assert counted("poisoned", "failed") == 1


def test_after_its_end_it_takes_nothing() -> None:
    kept = Kept()
    batcher = Batcher("ended", kept)
    batcher.close(10)
    batcher.record(span())
    assert not kept.spans
    assert counted("ended", "dropped") == 1
