"""What the `vllm` on this machine can do."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

_ASK: Final = """
import sys
from importlib.util import find_spec

needed = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.grpc", "opentelemetry.exporter.otlp.proto.http")
sys.exit(not all(map(find_spec, needed)))
"""
"""What vllm/tracing/otel.py imports, all or nothing. Newer vLLMs require it, older ones did not."""

_PATIENCE: Final = 20.0


def can_trace(program: str) -> bool:
    """Whether a `vllm` may be given `--otlp-traces-endpoint`: without OpenTelemetry it would refuse to start. False
    where that cannot be told, as of a program that is no Python script.
    """
    try:
        with Path(program).open("rb") as script:
            first = script.readline(4096)
        if not first.startswith(b"#!"):
            return False
        asked = [*first[2:].decode().split(), "-c", _ASK]
        return subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE).returncode == 0
    except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired):
        return False
