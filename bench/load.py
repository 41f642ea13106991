"""A load client for OpenAI-compatible services: closed loops of short calls, paced streams, idle streams.

As a library, from a running event loop (uvloop for full speed):

    target = Target("http://127.0.0.1:8080", model="sim-model", key="…")
    result = await closed_loop(target, connections=64, seconds=5)
    result = await paced_streams(target, streams=500, tokens=100)
    async with idle_streams(target, 1000) as idle: ...

As a command, which prints JSON:

    python -m bench.loadclient_cli --url http://127.0.0.1:8080 closed-loop --connections 64

Every answer is verified. Every run is bounded in calls and in time, and goes to a loopback address only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from time import perf_counter, process_time

from bench.loadclient_http import Answer, Connection, Target, connect
from bench.loadclient_results import ClosedLoopResult, Quantiles, StreamsResult

__all__ = [
    "ClosedLoopResult",
    "IdleStreams",
    "Quantiles",
    "StreamsResult",
    "Target",
    "closed_loop",
    "idle_streams",
    "paced_streams",
]

#: Bounds of one run.
MAX_CONNECTIONS = 10_000
MAX_REQUESTS = 5_000_000
MAX_CHUNKS = 20_000_000
MAX_SECONDS = 600.0

#: Connections that are opened at the same time, well below a listener's backlog.
_OPENING = 64

#: A closed loop ends after so many errors: a dead server would otherwise be asked in a hot loop.
_MAX_ERRORS = 1000


@dataclass(slots=True)
class _Loop:
    """What the connections of a closed loop share."""

    ends_at: float
    requests_left: int
    counts_from: float
    latencies: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def goes_on(self) -> bool:
        return self.requests_left > 0 and len(self.errors) < _MAX_ERRORS and perf_counter() < self.ends_at


async def closed_loop(
    target: Target,
    *,
    connections: int,
    seconds: float = 5.0,
    requests: int = MAX_REQUESTS,
    max_tokens: int = 8,
    warmup_s: float = 0.5,
    timeout_s: float = 30.0,
) -> ClosedLoopResult:
    """Keeps one unary chat in flight on each connection, for `seconds` after the warm-up or for so many requests.

    Calls sent in the warm-up are verified and not counted. A call that takes longer than `timeout_s` ends the run
    as an error. Raises OSError if the first connections are refused, ValueError for a run beyond the bounds.
    """
    _bound(
        connections=(connections, MAX_CONNECTIONS), requests=(requests, MAX_REQUESTS), seconds=(seconds, MAX_SECONDS)
    )
    opened = await _open(target, connections)
    start = perf_counter() + warmup_s
    state = _Loop(start + seconds, requests, start)
    request = target.chat_request(max_tokens=max_tokens, stream=False)
    tasks = [asyncio.create_task(_ask_repeatedly(target, each, request, state)) for each in opened]
    await asyncio.sleep(warmup_s)
    cpu = process_time()
    _, late = await asyncio.wait(tasks, timeout=seconds + timeout_s)
    for task in late:
        task.cancel()
        state.errors.append(f"no answer within {timeout_s} s")
    await asyncio.gather(*tasks, return_exceptions=True)
    took = min(perf_counter(), state.ends_at) - start if not late else perf_counter() - start
    return ClosedLoopResult(
        connections=connections,
        requests=len(state.latencies),
        errors=len(state.errors),
        seconds=took,
        requests_per_s=len(state.latencies) / took if took > 0 else 0.0,
        latency=Quantiles.of(state.latencies),
        client_cpu_s=process_time() - cpu,
        first_error=state.errors[0] if state.errors else None,
    )


async def _ask_repeatedly(target: Target, connection: Connection, request: bytes, state: _Loop) -> None:
    try:
        while state.goes_on():
            if connection.closed:
                connection = await connect(target)
            counted = perf_counter() >= state.counts_from
            state.requests_left -= counted
            answer = await connection.send(request)
            if error := _unary_error(answer):
                state.errors.append(error)
            elif counted:
                state.latencies.append(perf_counter() - answer.sent_at)
    except OSError as error:
        state.errors.append(str(error))
    finally:
        connection.close()


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
    after `timeout_s` are broken off and not complete. Raises OSError and ValueError as `closed_loop`.
    """
    chunks = streams * tokens
    _bound(streams=(streams, MAX_CONNECTIONS), chunks=(chunks, MAX_CHUNKS), timeout_s=(timeout_s, MAX_SECONDS))
    opened = await _open(target, streams)
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

    The block runs when all requests are sent; `arrived` waits for their heads. Raises OSError and ValueError as `closed_loop`.
    """
    _bound(streams=(streams, MAX_CONNECTIONS))
    opened = await _open(target, streams)
    request = target.chat_request(max_tokens=8, stream=True)
    for connection in opened:
        connection.send(request)
    try:
        yield IdleStreams(opened)
    finally:
        for connection in opened:
            connection.close()


async def _open(target: Target, count: int) -> list[Connection]:
    opened: list[Connection] = []
    while len(opened) < count:
        batch = min(_OPENING, count - len(opened))
        opened += await asyncio.gather(*(connect(target) for _ in range(batch)))
    return opened


def _bound(**values: tuple[float, float]) -> None:
    for name, (value, highest) in values.items():
        if not 0 < value <= highest:
            raise ValueError(f"{name}: must be above 0 and at most {highest:g}, got {value:g}")


def _unary_error(answer: Answer) -> str | None:
    if not answer.ended:
        return "the connection was lost before the answer's end"
    if answer.status != 200:
        return f"status {answer.status}: {answer.body[:200].decode(errors='replace')}"
    if b'"finish_reason":"' not in answer.body or not answer.body.endswith(b"}"):
        return f"not a finished chat completion: {answer.body[:200].decode(errors='replace')}"
    return None


def _stream_error(answer: Answer) -> str:
    if answer.status not in (0, 200):
        return f"status {answer.status}: {answer.body[:200].decode(errors='replace')}"
    where = f"after {answer.events} events, {answer.body_bytes} bytes"
    return f"the body ended without [DONE] {where}" if answer.ended else f"the stream was broken off {where}"
