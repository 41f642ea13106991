"""Closed loops: connections that each keep one unary call in flight."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import perf_counter, process_time

from bench.loadclient_http import (
    MAX_CONNECTIONS,
    MAX_REQUESTS,
    MAX_SECONDS,
    Answer,
    Connection,
    Target,
    bound,
    connect,
    open_connections,
)
from bench.loadclient_results import ClosedLoopResult, Quantiles

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

    Calls sent in the warm-up are verified and not counted; who samples the CPU time of servers over the run sets
    `warmup_s` to 0 and makes a run beforehand. A call that takes longer than `timeout_s` ends the run
    as an error. Raises OSError if the first connections are refused, ValueError for a run beyond the bounds.
    """
    bound(connections=(connections, MAX_CONNECTIONS), requests=(requests, MAX_REQUESTS), seconds=(seconds, MAX_SECONDS))
    opened = await open_connections(target, connections)
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


def _unary_error(answer: Answer) -> str | None:
    if not answer.ended:
        return "the connection was lost before the answer's end"
    if answer.status != 200:
        return f"status {answer.status}: {answer.body[:200].decode(errors='replace')}"
    if b'"finish_reason":"' not in answer.body or not answer.body.endswith(b"}"):
        return f"not a finished chat completion: {answer.body[:200].decode(errors='replace')}"
    return None
