"""What it costs the router that a call is typed: CPU time of its process for one chat as Chat and by Infer, and for
the same stream as StreamChat and by Infer.

The four take short turns within a round, in both orders, so that a machine that changes does so for all.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from weft.inference.v1 import chat_pb2, inference_pb2, inference_pb2_grpc

from bench.figures import TYPED_MORE, TYPED_STREAM_MORE, Figures, Quantity, clients
from bench.measure import CpuMeter, WrongAnswerError, idle_rates
from bench.systems import System, watched
from services.rpc.channel import bearer, dial
from services.typed.messages import request_json

SYSTEM: Final = "separate"
PART: Final = "router"

_CLIENTS: Final = 8
_TURNS: Final = 4
_TOKENS: Final = 32
_CHAT: Final = chat_pb2.ChatRequest(
    model="bench-fast",
    messages=[{"role": "system", "text": "You are brief."}, {"role": "user", "text": "word " * 120}],  # type: ignore[list-item]
    sampling={"max_tokens": _TOKENS, "temperature": 0.5, "seed": 3},  # type: ignore[arg-type]
)
_BODY: Final = json.loads(request_json(_CHAT))

Call = Callable[[], Awaitable[None]]


async def measure(seconds: float, rounds: int, home: Path, figures: Figures) -> None:
    """Adds the figures of so many rounds; each way of calling is taken for `seconds` in each of its turns."""
    load = clients(_CLIENTS)
    async with watched(home, {"metrics": {"port": 0}, "tracing": {"local": False}}) as (system,):
        address = json.loads((home / "watched-0" / "run" / "router.json").read_text())["address"]
        async with dial(address) as channel:
            calls = _calls(inference_pb2_grpc.InferenceServiceStub(channel), str(system.key))
            await _round(system, calls, {}, min(seconds, 0.5))  # to warm up
            for _ in range(rounds):
                idle = (await idle_rates((system,)))[system.name]
                costs = await _round(system, calls, dict(idle), seconds)
                for name, cost in costs.items():
                    figures.add(Quantity(f"CPU per call, {PART}, {name}", "µs", load), SYSTEM, cost)
                figures.add(Quantity(TYPED_MORE, "µs", load), SYSTEM, costs["Chat"] - costs["Infer"])
                stream_more = costs["StreamChat"] - costs["Infer, streamed"]
                figures.add(Quantity(TYPED_STREAM_MORE, "µs", load), SYSTEM, stream_more)


async def _round(system: System, calls: dict[str, Call], idle: dict[str, float], seconds: float) -> dict[str, float]:
    """µs a call, of each."""
    used, answered = dict.fromkeys(calls, 0.0), dict.fromkeys(calls, 0)
    for turn in range(_TURNS):
        for name in calls if turn % 2 == 0 else reversed(calls):
            meter = CpuMeter(system, idle)
            answered[name] += await _loop(calls[name], seconds)
            used[name] += meter.used_ns()[PART]
    return {name: used[name] / 1e3 / answered[name] for name in calls}


async def _loop(call: Call, seconds: float) -> int:
    """How many calls were answered to so many clients, each of which makes one at a time."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def client() -> int:
        count = 0
        while loop.time() < end:
            await call()
            count += 1
        return count

    return sum(await asyncio.gather(*(client() for _ in range(_CLIENTS))))


def _calls(stub: Any, key: str) -> dict[str, Call]:
    how: dict[str, Any] = {"metadata": bearer(key), "timeout": 60.0}
    whole = inference_pb2.InferRequest(operation="chat/completions", body_json=json.dumps(_BODY))
    options = {"stream": True, "stream_options": {"include_usage": True}}
    streamed = inference_pb2.InferRequest(operation="chat/completions", body_json=json.dumps({**_BODY, **options}))
    stream_chat = chat_pb2.StreamChatRequest(chat=_CHAT)

    async def chat() -> None:
        answer = await stub.Chat(_CHAT, **how)
        _check(answer.usage.completion_tokens == _TOKENS)

    async def infer(request: inference_pb2.InferRequest) -> None:
        parts = [part async for part in stub.Infer(request, **how)]
        _check(parts[0].head.status == 200 and f'"completion_tokens":{_TOKENS}' in parts[-1].text)

    async def typed_stream() -> None:
        pieces = [piece async for piece in stub.StreamChat(stream_chat, **how)]
        _check(pieces[-1].end.usage.completion_tokens == _TOKENS)

    return {
        "Infer": lambda: infer(whole),
        "Chat": chat,
        "Infer, streamed": lambda: infer(streamed),
        "StreamChat": typed_stream,
    }


def _check(right: bool) -> None:
    if not right:
        raise WrongAnswerError("a typed call or its like had not the answer that it should")
