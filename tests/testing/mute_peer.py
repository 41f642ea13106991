"""A process of its own that takes calls and never answers them, for tests that stop or kill it: prints its address."""

import asyncio

import uvloop

from tests.testing.streams import Answerer, Peer


async def main() -> None:
    """Runs until it is killed."""
    async with Peer(Answerer()) as peer:
        print(peer.address, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
