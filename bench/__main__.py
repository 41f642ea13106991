"""`python -m bench`: what the mesh adds to a request, beside direct access to the simulated vLLM."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import uvloop
from rich.console import Console

from bench import gates, measure, telemetry, typed
from bench.figures import Figures
from bench.report import as_json, table
from bench.systems import running
from services.runtime.child import ChildError

RESULTS = Path(__file__).parent / "results" / "latest.json"
#: Columns of a table that goes to a file or a pipe.
FILE_WIDTH = 150
MEASUREMENTS = ("gates", "telemetry", "typed", "memory", "requests", "chunks")


def main() -> None:
    given = _arguments()
    # A developer's own settings of Weft are not to change the figures.
    for name in [name for name in os.environ if name.startswith("WEFT_")]:
        del os.environ[name]
    console = Console(stderr=given.json, highlight=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    try:
        with tempfile.TemporaryDirectory(prefix="weft-bench-") as home:
            figures = uvloop.run(_bench(given, Path(home), console)).all()
    except (measure.WrongAnswerError, ChildError, OSError) as error:
        sys.exit(f"error: {error}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("Stopped; nothing is left running.")
    result = as_json(figures, {"seconds": given.seconds, "rounds": given.rounds, "only": given.only})
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    console.print(table(figures))
    console.print("Every sample: bench/results/latest.json")
    if given.json:
        print(json.dumps(result, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures what the mesh adds to a request.")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a closed loop; paced streams take twice that")
    parser.add_argument("--rounds", type=int, default=3, help="the figures are the medians of so many")
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, help="measure only this; may be repeated")
    parser.add_argument("--json", action="store_true", help="JSON to stdout; all else goes to stderr")
    given = parser.parse_args()
    given.only = given.only or list(MEASUREMENTS)
    if not 0.1 <= given.seconds <= 60 or not 1 <= given.rounds <= 100:
        parser.error("--seconds goes from 0.1 to 60, --rounds from 1 to 100")
    return given


async def _bench(given: argparse.Namespace, home: Path, console: Console) -> Figures:
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    figures = Figures()
    if "gates" in given.only:
        console.print("The gates: authentication, permission, limits")
        await gates.measure(given.seconds, given.rounds, home, figures)
    if "telemetry" in given.only:
        console.print("Two meshes in turns, one of them watched")
        await telemetry.measure(given.seconds, given.rounds, home, figures)
    if "typed" in given.only:
        console.print("The same chats as typed calls and as JSON")
        await typed.measure(given.seconds, given.rounds, home, figures)
    if not set(given.only) - {"gates", "telemetry", "typed"}:
        return figures
    console.print("Starting the simulators and both meshes")
    async with running(home) as systems:
        console.print("Warming up")
        await measure.warm_up(systems)
        if "memory" in given.only:
            console.print(f"Opening {measure.IDLE_STREAMS} idle streams")
            await measure.memory(systems, figures)
        rounds = given.rounds if {"requests", "chunks"} & set(given.only) else 0
        for number in range(1, rounds + 1):
            idle = await measure.idle_rates(systems)
            if "requests" in given.only:
                console.print(f"Round {number} of {rounds}: requests")
                await measure.requests(systems, idle, given.seconds, figures)
            if "chunks" in given.only:
                console.print(f"Round {number} of {rounds}: paced streams")
                await measure.chunks(systems, idle, 2 * given.seconds, figures)
        console.print("Stopping")
    return figures


if __name__ == "__main__":
    main()
