"""A load client for OpenAI-compatible services: closed loops of short calls, paced streams, idle streams.

As a library, from a running event loop (uvloop for full speed):

    target = Target("http://127.0.0.1:8080", model="sim-model", key="…")
    result = await closed_loop(target, connections=64, seconds=5)
    result = await paced_streams(target, streams=500, tokens=100)
    async with idle_streams(target, 1000) as idle: ...

As a command, which prints JSON:

    python -m bench.load --url http://127.0.0.1:8080 closed-loop --connections 64

Every answer is verified. Every run is bounded in calls and in time, and goes to a loopback address only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any

import uvloop

from bench.loadclient_closed import closed_loop
from bench.loadclient_http import MAX_REQUESTS, Target
from bench.loadclient_results import ClosedLoopResult, Quantiles, StreamsResult
from bench.loadclient_streams import IdleStreams, idle_streams, paced_streams

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

Mode = Callable[[Target, argparse.Namespace], Coroutine[Any, Any, dict[str, Any]]]


async def _closed_loop(target: Target, given: argparse.Namespace) -> dict[str, Any]:
    result = await closed_loop(
        target,
        connections=given.connections,
        seconds=given.seconds,
        requests=given.requests,
        max_tokens=given.max_tokens,
    )
    return asdict(result)


async def _streams(target: Target, given: argparse.Namespace) -> dict[str, Any]:
    result = await paced_streams(
        target, streams=given.streams, tokens=given.tokens, ramp_s=given.ramp, timeout_s=given.timeout
    )
    return asdict(result)


async def _idle(target: Target, given: argparse.Namespace) -> dict[str, Any]:
    async with idle_streams(target, given.streams) as idle:
        await asyncio.sleep(given.hold)
        return {"streams": given.streams, "answered": idle.answered, "broken": idle.broken}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description="A load client; prints JSON.")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="base URL without /v1; loopback only")
    parser.add_argument("--model", default="sim-model")
    parser.add_argument("--key", help="bearer key")
    parser.add_argument("--prompt-bytes", type=int, default=600)
    modes = parser.add_subparsers(required=True)

    closed = modes.add_parser("closed-loop", help="each connection sends, waits for the answer, sends again")
    closed.add_argument("--connections", type=int, default=16)
    closed.add_argument("--seconds", type=float, default=5.0)
    closed.add_argument("--requests", type=int, default=MAX_REQUESTS)
    closed.add_argument("--max-tokens", type=int, default=8)
    closed.set_defaults(mode=_closed_loop)

    streams = modes.add_parser("streams", help="so many streams at once, at the server's pace")
    streams.add_argument("--streams", type=int, default=100)
    streams.add_argument("--tokens", type=int, default=100)
    streams.add_argument("--ramp", type=float, default=1.0)
    streams.add_argument("--timeout", type=float, default=120.0)
    streams.set_defaults(mode=_streams)

    idle = modes.add_parser("idle", help="so many streams that are held open; the server should send nothing")
    idle.add_argument("--streams", type=int, default=1000)
    idle.add_argument("--hold", type=float, default=10.0, help="seconds")
    idle.set_defaults(mode=_idle)
    return parser


def main() -> None:
    given = _parser().parse_args()
    mode: Mode = given.mode
    try:
        target = Target(given.url, given.model, given.key, given.prompt_bytes)
        print(json.dumps(uvloop.run(mode(target, given)), indent=2))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
