"""What `globus-compute-diagnostic` reports: the SDK's own look at this machine's connections to Globus Compute."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from pathlib import Path
from typing import Final

from services.cli.check import Check

_PROGRAM: Final = "globus-compute-diagnostic"
_TIME: Final = 120.0
"""Seconds that it may take: its connections time out one after another."""
_SECTION: Final = re.compile(r"== Diagnostic: (.*) ==")
_FAILURE: Final = re.compile(
    r"Connection failed to|Failed to establish SSL connection|Command timed out|Command failed|Error encountered during"
)
# What it cannot run on this machine, network tools for instance, says nothing about the connections; and an emulated
# service has none of the ports that it tries.
_HARMLESS: Final = re.compile(r"was not found in the PATH|localhost")


async def ask_diagnostic() -> list[Check]:
    """Runs it, without its logs, and gives what fails."""
    program = shutil.which(_PROGRAM) or shutil.which(_PROGRAM, path=str(Path(sys.executable).parent))
    if program is None:
        return [Check("diagnostic", f"{_PROGRAM} is not installed here, so that it was not asked")]
    process = await asyncio.create_subprocess_exec(
        program,
        *("-p", "-k", "0"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_TIME):
            out, _ = await process.communicate()
    except TimeoutError:
        return [Check("diagnostic", f"{_PROGRAM} takes more than {_TIME:.0f} s", f"run it yourself: '{_PROGRAM} -p'")]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return read_diagnostic(out.decode(errors="replace"), process.returncode or 0)


def read_diagnostic(output: str, code: int) -> list[Check]:
    """The failures in what it printed; one good finding if there are none."""
    sections = [part.strip() for part in _SECTION.split(output)[1:]]
    failures: list[Check] = []
    for name, text in zip(sections[::2], sections[1::2], strict=True):
        # It says each failure twice, first broken into lines of 80 characters, then whole.
        said = [line.strip().rstrip(".") for line in text.splitlines() if _FAILURE.search(line)]
        if said and not _HARMLESS.search(f"{name} {said[-1]}"):
            failures.append(Check("diagnostic", said[-1], _remedy(name)))
    if code and not failures:
        last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "it says nothing")
        return [Check("diagnostic", f"{_PROGRAM} failed: {last}", f"run it yourself: '{_PROGRAM} -p'")]
    passed = f"{_PROGRAM} finds nothing wrong in {len(sections) // 2} looks"
    return failures or [Check("diagnostic", passed)]


def _remedy(section: str) -> str:
    if "test_conn" in section or "test_ssl_conn" in section or "onnect" in section:
        return "let this machine connect outwards to Globus Compute at the ports 443 and 5671"
    return f"run '{_PROGRAM} -p', whose part '{section}' says more"
