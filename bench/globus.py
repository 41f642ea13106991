"""What Globus Compute costs a call: `make bench-globus`, as root on Debian, or where RabbitMQ is installed.

In one run and with one vLLM: a cold call split into its stages; then the time to the first token directly, through the
mesh by session, and by task, in turn, so that whatever else this machine does falls on all alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from typing import Any, Final

import aiohttp
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table

from bench.globus_chain import BY_SESSION, BY_TASK, SERVED, Chain, built, running

MARK: Final = 5.0
"""Milliseconds that a session may add to the time to the first token, at the median."""
_PATIENCE: Final = 600.0


async def first_token(session: aiohttp.ClientSession, base: str, model: str, key: str = "") -> float:
    """Seconds from a streamed call to its first token. Raises `RuntimeError` unless the answer is whole."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"Tell me of looms, {time.monotonic_ns()}."}],
        "max_tokens": 8,
        "ignore_eos": True,
        "stream": True,
    }
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    began = time.perf_counter()
    first = last = 0.0
    async with session.post(f"{base}/v1/chat/completions", json=body, headers=headers) as response:
        async for line in response.content:
            if line.startswith(b"data: "):
                first, text = first or time.perf_counter(), line
                last = time.perf_counter() if text.strip() == b"data: [DONE]" else last
    if response.status != 200 or not last:
        raise RuntimeError(f"a call to {model} at {base} ended with status {response.status} and no [DONE]")
    return first - began


async def cold(chain: Chain, session: aiohttp.ClientSession) -> dict[str, float]:
    """The seconds of a cold call's stages, from the launcher's own times."""
    began = time.time()
    total = await first_token(session, chain.mesh.url, BY_SESSION, chain.mesh.key)
    start = await chain.ready_start()
    moments = [began, *map(_seconds, (start.create_time, start.submit_time, start.attach_time, start.ready_time))]
    moments[-1] = min(moments[-1], began + total)  # seen a moment after the call that waited for it went
    names = (
        "call → start decided",
        "decided → task submitted",
        "submitted → job runs, worker attached",
        "attached → vLLM ready",
    )
    stages = {name: after - before for name, before, after in zip(names, moments, moments[1:], strict=False)}
    return {**stages, "ready → first token": began + total - moments[-1], "call → first token": total}


def _seconds(moment: Timestamp) -> float:
    return float(moment.ToMilliseconds()) / 1000


async def warm(chain: Chain, session: aiohttp.ClientSession, rounds: int) -> dict[str, list[float]]:
    """Milliseconds to the first token: `rounds` each directly and by session, a tenth as many by task."""
    mesh = chain.mesh
    ways = {
        "direct": (chain.vllm, SERVED, ""),
        "session": (mesh.url, BY_SESSION, mesh.key),
        "task": (mesh.url, BY_TASK, mesh.key),
    }
    for way in ways.values():
        await first_token(session, *way)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            if name != "task" or number % 10 == 0:
                found[name].append(1000 * await first_token(session, *way))
    return found


def report(stages: dict[str, float], found: dict[str, list[float]]) -> dict[str, Any]:
    """The figures, as JSON has them."""
    ways = {
        name: {
            "calls": len(values),
            "p50_ms": statistics.median(values),
            "p90_ms": sorted(values)[len(values) * 9 // 10],
        }
        for name, values in found.items()
    }
    added = ways["session"]["p50_ms"] - ways["direct"]["p50_ms"]
    return {
        "cold_s": stages,
        "first_token": ways,
        "session_added_p50_ms": added,
        "mark_ms": MARK,
        "kept": added <= MARK,
    }


def show(console: Console, figures: dict[str, Any]) -> None:
    """The figures, for people."""
    table = Table("Time to the first token", "calls", "p50", "p90")
    for name, values in figures["first_token"].items():
        table.add_row(name, str(values["calls"]), f"{values['p50_ms']:.1f} ms", f"{values['p90_ms']:.1f} ms")
    console.print(table)
    kept = "kept" if figures["kept"] else "MISSED"
    console.print(f"A session adds {figures['session_added_p50_ms']:.1f} ms at the median; at most {MARK:g}: {kept}")
    stages = Table("A cold call", "seconds")
    for name, seconds in figures["cold_s"].items():
        stages.add_row(name, f"{seconds:.2f}")
    console.print(stages)


async def measure(console: Console, rounds: int) -> dict[str, Any]:
    """Starts the chain, measures it, and ends it."""
    console.print("Starting the mesh, the emulated service and a real endpoint")
    timeout = aiohttp.ClientTimeout(total=_PATIENCE)
    async with running() as chain, aiohttp.ClientSession(timeout=timeout) as session:
        console.print("A cold call")
        stages = await cold(chain, session)
        console.print("Warm calls")
        return report(stages, await warm(chain, session, rounds))


def main() -> int:
    """Measures, and says whether the mark was kept by its exit status."""
    parser = argparse.ArgumentParser(prog="make bench-globus", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="streamed calls each way (default 100)")
    parser.add_argument("--json", action="store_true", help="the figures as JSON on standard output")
    given = parser.parse_args()
    for variable, script in (
        ("WEFT_ENDPOINT_PYTHON", "tests/globus/environment/build.py"),
        ("WEFT_VLLM_PYTHON", "tests/vllm/environment/build.py"),
    ):
        if variable not in os.environ:
            os.environ[variable] = built(script)
    console = Console(stderr=given.json)
    figures = asyncio.run(measure(console, given.rounds))
    show(console, figures)
    if given.json:
        print(json.dumps(figures, indent=2))
    return 0 if figures["kept"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
