"""The README's chapter on clusters as something to follow: its blocks of shell, and terminals to type them into."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.vllm.worker import CHECKOUT

PATIENCE = 300
"""Seconds for one block: an environment is installed, a model is loaded."""

_CHAPTER = re.compile(r"^## An HPC cluster\n(.*?)^## ", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```sh (yours|gateway|cluster)( stays)?\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """Lines of shell for one machine. One that `stays` is in the foreground for good."""

    machine: str
    stays: bool
    text: str


def read_chapter() -> list[Block]:
    """The blocks of the chapter, in order; fails if one is marked for no machine."""
    readme = (CHECKOUT / "README.md").read_text()
    chapter = _CHAPTER.search(readme)
    assert chapter is not None, "the README has no chapter 'An HPC cluster'"
    blocks = [Block(machine, bool(stays), text) for machine, stays, text in _BLOCK.findall(chapter[1])]
    assert len(blocks) == chapter[1].count("```sh"), "a block of the chapter is marked for no machine"
    return blocks


class Terminal:
    """A shell that is typed into, as `user` words say; what it shows is in `screen`."""

    def __init__(self, folder: Path, environ: Mapping[str, str], user: Sequence[str] = ()) -> None:
        self.screen = ""
        self._folder, self._environ, self._user = folder, environ, user
        self._shell: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._shown = asyncio.Event()

    async def open(self) -> None:
        """Starts the shell, which ends at the first command that fails."""
        # It shows things on a terminal, without which the agent would tell its UUID to nobody, and is typed into by a
        # pipe, so that nothing is shown twice.
        screen, programs = pty.openpty()
        self._shell = await asyncio.create_subprocess_exec(
            *self._user,
            *("bash", "--norc", "-e", "-o", "pipefail"),
            cwd=self._folder,
            env={**self._environ, "TERM": "dumb"},
            stdin=asyncio.subprocess.PIPE,
            stdout=programs,
            stderr=programs,
        )
        os.close(programs)
        self._reading = asyncio.create_task(self._read(screen))

    async def type(self, block: Block) -> str:
        """Types a block, and gives what its commands show once they are done; one that stays is not waited for."""
        before = len(self.screen)
        mark = f"done-{secrets.token_hex(8)}"
        # In braces, so that the shell has read all of it before a command reads what else is typed.
        await self._write(f"{{\n{block.text}\n}} </dev/null\necho {mark}\n")
        if not block.stays:
            await self.until(f"{mark}\n")
        return self.screen[before:].replace(f"{mark}\n", "")

    async def until(self, pattern: str) -> re.Match[str]:
        """Waits until the screen shows it; fails with the screen if the shell ends, or after `PATIENCE` seconds."""
        try:
            async with asyncio.timeout(PATIENCE):
                while (found := re.search(pattern, self.screen)) is None:
                    assert self._reading is not None
                    assert not self._reading.done(), f"the shell has ended:\n{self.screen}"
                    self._shown.clear()
                    await self._shown.wait()
        except TimeoutError:
            pytest.fail(f"not within {PATIENCE} s: {pattern!r}; the screen:\n{self.screen}")
        return found

    async def close(self) -> None:
        """Ends the shell; what it runs belongs to the run, which ends that."""
        if self._shell is not None and self._shell.returncode is None:
            self._shell.kill()
            await self._shell.wait()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _write(self, text: str) -> None:
        assert self._shell is not None
        assert self._shell.stdin is not None
        self._shell.stdin.write(text.encode())
        await self._shell.stdin.drain()

    async def _read(self, screen: int) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: protocol, os.fdopen(screen, "rb", 0))
        try:
            # A terminal whose programs have all ended reads as an error.
            with contextlib.suppress(OSError):
                while chunk := await reader.read(65536):
                    self.screen += chunk.decode(errors="replace").replace("\r\n", "\n")
                    self._shown.set()
        finally:
            transport.close()
            self._shown.set()
