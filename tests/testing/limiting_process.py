"""A router's limiter in a process of its own, for tests: a line of JSON in, one out.

`[principal, quota, calls, tokens]` has so many callers ask at once; each that is admitted uses all that it reserved,
and ends. The answer is how many were admitted, and the reasons of the others.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

from services.core.errors import ServiceError
from services.core.quota import Quota
from services.router.limits.claims import Claim
from services.router.limits.config import LimitsConfig
from services.router.limits.limiter import Limiter
from services.router.limits.making import make_limiter


async def _call(limiter: Limiter, claims: tuple[Claim, ...], principal: str, tokens: int) -> str:
    try:
        admission = limiter.admit(claims, principal=principal, tokens=tokens)
        admission = admission or await limiter.admit_later(claims, principal=principal, tokens=tokens)
    except ServiceError as error:
        return error.reason.name
    admission.settle(tokens)
    return "admitted"


async def _main(url: str, name: str) -> None:
    limiter = make_limiter(LimitsConfig(store_url=url, routers=2), Path(), name)
    limiter.start()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        principal, quota, calls, tokens = json.loads(line)
        claims = (Claim(principal, Quota(**quota)),)
        began = time.monotonic()
        said = await asyncio.gather(*(_call(limiter, claims, principal, tokens) for _ in range(calls)))
        found = {"admitted": said.count("admitted"), "reasons": sorted(set(said) - {"admitted"})}
        print(json.dumps({**found, "seconds": time.monotonic() - began}), flush=True)
    await limiter.close()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
