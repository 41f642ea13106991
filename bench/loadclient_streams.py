"""Streams that run at once: paced by the server, or silent and held open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from time import perf_counter, process_time

from bench.loadclient_http import (
    MAX_CHUNKS,
    MAX_CONNECTIONS,
    MAX_SECONDS,
    Answer,
    Connection,
    Target,
    bound,
    open_connections,
)
from bench.loadclient_results import Quantiles, StreamsResult


async def paced_streams(
    target: Target,
    *,
    streams: int,
    tokens: int,
    ramp_s: float = 1.0,
    timeout_s: float = 120.0,
) -> StreamsResult:
    """Runs so many streams at once, each of `tokens` tokens; the server sets the pace.

    They start evenly spread over `ramp_s`, so that their tokens do not march in step. Streams that are not over
    after `timeout_s` are broken off and not complete. Raises OSError if a connection is
    refused, ValueError for a run beyond the bounds.
    """
    chunks = streams * tokens
    bound(streams=(streams, MAX_CONNECTIONS), chunks=(chunks, MAX_CHUNKS), timeout_s=(timeout_s, MAX_SECONDS))
    opened = await open_connections(target, streams)
    request = target.chat_request(max_tokens=tokens, stream=True)
    cpu, start = process_time(), perf_counter()
    pending = []
    for index, connection in enumerate(opened):
        pending.append(connection.send(request))
        ahead = start + ramp_s * (index + 1) / streams - perf_counter()
        if ahead > 0.001:
            await asyncio.sleep(ahead)
    await asyncio.wait(pending, timeout=timeout_s)
    cpu, took = process_time() - cpu, perf_counter() - start
    answers = [connection.answer for connection in opened]
    for connection in opened:
        connection.close()
    return _streams_result(answers, tokens, took, cpu)


def _streams_result(answers: list[Answer], tokens: int, seconds: float, cpu: float) -> StreamsResult:
    complete = [answer for answer in answers if answer.done]
    broken = [answer for answer in answers if not answer.done]
    chunks = sum(answer.events for answer in answers)
    return StreamsResult(
        streams=len(answers),
        complete=len(complete),
        # One event opens the stream and one is [DONE].
        intact=sum(answer.events == tokens + 2 for answer in complete),
        chunks=chunks,
        body_bytes=sum(answer.body_bytes for answer in answers),
        seconds=seconds,
        chunks_per_s=chunks / seconds,
        ttft=Quantiles.of(answer.first_event_at - answer.sent_at for answer in answers if answer.events),
        gap=Quantiles.of(gap for answer in answers for gap in answer.gaps),
        client_cpu_s=cpu,
        first_error=_stream_error(broken[0]) if broken else None,
    )


@dataclass(frozen=True, slots=True)
class IdleStreams:
    """Streams that are open; closed when the block that opened them ends."""

    connections: list[Connection]

    async def arrived(self) -> None:
        """Waits until each stream's head has come, or its connection is lost."""
        await asyncio.gather(*(connection.head for connection in self.connections))

    @property
    def answered(self) -> int:
        """Those whose head has come, with status 200."""
        return sum(connection.answer.status == 200 for connection in self.connections)

    @property
    def broken(self) -> int:
        """Those that have ended, by an error or otherwise."""
        return sum(connection.closed or connection.answer.ended for connection in self.connections)


@contextlib.asynccontextmanager
async def idle_streams(target: Target, streams: int) -> AsyncIterator[IdleStreams]:
    """Opens so many streams and holds them; start the server with a long TTFT, so that they send nothing.

    The block runs when all requests are sent; `arrived` waits for their heads. Raises OSError if a connection is
    refused, ValueError for a run beyond the bounds.
    """
    bound(streams=(streams, MAX_CONNECTIONS))
    opened = await open_connections(target, streams)
    request = target.chat_request(max_tokens=8, stream=True)
    for connection in opened:
        connection.send(request)
    try:
        yield IdleStreams(opened)
    finally:
        for connection in opened:
            connection.close()


def _stream_error(answer: Answer) -> str:
    if answer.status not in (0, 200):
        return f"status {answer.status}: {answer.body[:200].decode(errors='replace')}"
    where = f"after {answer.events} events, {answer.body_bytes} bytes"
    return f"the body ended without [DONE] {where}" if answer.ended else f"the stream was broken off {where}"
