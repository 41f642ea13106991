"""What a vLLM that starts is doing, read from the end of its log and said in a sentence; before it has had a call."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

_TAIL_BYTES: Final = 16 * 1024
_LONGEST: Final = 300
_LOOK_EVERY: Final = 1.0

_ANSI: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PREFIX: Final = re.compile(
    r"^(?:\([A-Za-z][\w -]* pid=\d+[^)]*\)\s*)*"
    r"(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\s+\d\d-\d\d \d\d:\d\d:\d\d\s+(?:\[[^\]]*\]\s*)?)?"
)
_SECRET: Final = re.compile(
    r"(?i)api.?key|token=|secret|password|bearer|credential|authorization|non-default args|Namespace\(|hf_\w{8}"
    r"|\bsk-\w{8}|://[^\s/@]*:[^\s/@]*@"
)
_ERROR: Final = re.compile(r"^(?:[\w.]*(?:Error|Exception|Interrupt)\b(?=:|$)|.*\berror: )")
_BANNER: Final = re.compile("[\u2580-\u259f]")
_CONSEQUENCE: Final = re.compile(r"See root cause above")

_STAGES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # Of launch_vllm.sh; its own words hold the whole command, which is no concern of those who wait.
    (re.compile(r"launch_vllm: attempt (\d+) of (\d+)"), "attempt {0} of {1}"),
    (re.compile(r"launch_vllm: starting "), "its process begins"),
    (re.compile(r"launch_vllm: Ray's head is here"), "waiting for its nodes to join Ray"),
    (re.compile(r"launch_vllm: (\d+) nodes have joined Ray"), "its {0} nodes have joined Ray"),
    (re.compile(r"checkpoint shards:.*?\b(\d+)/(\d+)"), "loading weights, {0} of {1} shards"),
    (re.compile(r"[Cc]apturing CUDA graph.*?\b(\d+)/(\d+)"), "capturing graphs, {0} of {1}"),
    (re.compile(r"[Cc]apturing (?:CUDA )?graph|Capturing the model"), "capturing graphs"),
    (re.compile(r"Starting vLLM (?:API )?server on|Available routes are|Application startup"), "starting its server"),
    (re.compile(r"Graph capturing finished|init engine .* took"), "its engine is ready"),
    (re.compile(r"[CG]PU KV cache size|# [CG]PU blocks|Maximum concurrency"), "setting up its cache"),
    (re.compile(r"torch\.compile takes|Dynamo bytecode|[Cc]ompiling a graph"), "compiling the model"),
    (re.compile(r"Loading (?:model )?weights took|Model loading took"), "weights are loaded"),
    (re.compile(r"Starting to load model|Loading model from|Loading safetensors"), "loading weights"),
    (re.compile(r"[Dd]ownloading"), "downloading the model"),
    (re.compile(r"Initializing a V\d LLM engine|Initializing an LLM engine"), "starting its engine"),
    (re.compile(r"[Ww]aiting for .*(?:Ray|placement group|node)"), "waiting for its nodes"),
    (re.compile(r"vLLM API server version|non-default args"), "reading its settings"),
)  # fmt: skip
"""The newest line of the log that fits a pattern tells the stage. For one line, the first pattern counts."""


def progress(lines: Sequence[str]) -> str:
    """What vLLM is doing, by the last lines of its log; empty if they do not tell."""
    said = ""
    for line in reversed(lines):
        text = _bare(line)
        for pattern, sentence in _STAGES:
            # A line that shows all settings at once has a word of everything further back.
            if (match := pattern.search(text[:_LONGEST])) is not None:
                return f"vLLM is starting: {sentence.format(*match.groups())}"
        said = said or _harmless(text)
    return f"vLLM says: {said}" if said else ""


def failure(lines: Sequence[str]) -> str:
    """What a vLLM that has ended said last of what went wrong; empty if nothing."""
    bare = [_bare(line) for line in lines]
    errors = [text for text in bare if _ERROR.search(text) and not _CONSEQUENCE.search(text)]
    # The first error is the cause; those behind it, in other processes, are its consequences.
    for text in (*errors, *reversed(bare)):
        if said := _harmless(text):
            return said
    return ""


class LogTail:
    """The end of the log of the vLLM that runs at present, which began at `begins` in the file."""

    def __init__(self, file: Path, begins: Callable[[], int]) -> None:
        self._file = file
        self._begins = begins
        self._looked = float("-inf")
        self._last = ""

    async def progress(self) -> str:
        """What vLLM is doing; looks into the file at most once a second, in a thread, as it may be on a slow share."""
        now = asyncio.get_running_loop().time()
        if now - self._looked >= _LOOK_EVERY:
            self._looked = now
            self._last = progress(await self.lines())
        return self._last

    async def lines(self) -> list[str]:
        """Its last lines; none if the file cannot be read."""
        return await asyncio.to_thread(read_tail, self._file, self._begins())


def read_tail(file: Path, begins: int) -> list[str]:
    """The last lines of a file from the byte `begins` on, 16 KiB at most. A progress bar writes its line again and
    again; each counts as one.
    """
    try:
        with file.open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(begins, size - _TAIL_BYTES, 0))
            text = log.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return []
    lines = re.split(r"[\r\n]+", text)
    if size - _TAIL_BYTES > begins:
        lines = lines[1:]  # which began before
    return [line for line in lines if line.strip()]


def _bare(line: str) -> str:
    return _PREFIX.sub("", _ANSI.sub("", line)).strip()


def _harmless(text: str) -> str:
    """A line as it may be shown: bounded, printable, none of vLLM's banner, and none that may hold a key."""
    if _SECRET.search(text) or _BANNER.search(text) or not any(letter.isalpha() for letter in text):
        return ""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:_LONGEST]
