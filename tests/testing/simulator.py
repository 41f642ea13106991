"""A simulated vLLM in a process of its own: to be killed, told to fail, and asked what it computes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from services.runtime.child import ChildSpec
from tests.testing.processes import HeldPort, Part


class Simulator(Part):
    """A simulator on a port of its own, which it keeps when it is started again. `flags` are its command line's."""

    def __init__(self, name: str, folder: Path, *flags: str) -> None:
        self._port = HeldPort()
        self.url = f"http://127.0.0.1:{self._port.port}"
        command = (sys.executable, "-m", "services.sim", "--port", str(self._port.port), *flags)
        super().__init__(ChildSpec(name, command, folder / f"{name}.log", announces=False))

    def clear_away(self) -> None:
        """See `Part.clear_away`."""
        super().clear_away()
        self._port.close()

    async def fail(self, **fault: Any) -> None:
        """Has the next calls fail; the fields are those of `services.sim.faults.Fault`."""
        async with aiohttp.ClientSession() as session, session.post(f"{self.url}/sim/faults", json=fault) as answer:
            assert answer.status == 200, await answer.text()

    async def forgive(self) -> None:
        """Forgets the faults that still wait."""
        async with aiohttp.ClientSession() as session, session.delete(f"{self.url}/sim/faults") as answer:
            assert answer.status == 200, await answer.text()

    async def running_calls(self) -> int:
        """The calls that it computes, or that wait in its queue."""
        # Of one look: between two, a call may go from where the second looks to where the first has looked.
        return int(await self._metric("num_requests_running", "num_requests_waiting"))

    async def generated(self) -> int:
        """The tokens that it has generated since its start."""
        return int(await self._metric("generation_tokens_total"))

    async def computed(self) -> int:
        """The tokens of prompts and answers since its start."""
        return int(await self._metric("prompt_tokens_total")) + await self.generated()

    async def answers(self) -> bool:
        """Whether it is there and well."""
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{self.url}/health") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def _metric(self, *names: str) -> float:
        """The sum of the samples that have one of these names."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/metrics") as answer:
            text = await answer.text()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.removeprefix("vllm:") in names
        )
