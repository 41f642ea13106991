"""Asks many things, a few at a time: python examples/fan_out.py [COUNT]"""

import asyncio
import os
import sys

from weft.client import AsyncClient, WeftError

MODEL = os.environ.get("WEFT_MODEL", "sim-model")
AT_ONCE = 8


async def main(count: int) -> None:
    """Prints each answer when it is there."""
    places = asyncio.Semaphore(AT_ONCE)
    failed = 0

    async def ask(number: int) -> None:
        nonlocal failed
        async with places:
            try:
                answer = await client.chat(MODEL, f"Name {number} things.", max_tokens=8, seed=number)
            except WeftError as error:  # one that fails does not end the others
                failed += 1
                print(f"{number}: {error}")
            else:
                print(f"{number}: {answer.choices[0].message.text}")

    async with AsyncClient() as client, asyncio.TaskGroup() as tasks:
        for number in range(1, count + 1):
            tasks.create_task(ask(number))
    print(f"{count - failed} of {count} answered")


asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
