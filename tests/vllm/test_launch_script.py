"""`launch_vllm.sh`, with which endpoints start vLLM, over the real one."""

import os
import subprocess
from pathlib import Path

from endpoints.reading import HERE
from tests.vllm.processes import Deadline, Process, children, free_port
from tests.vllm.rows.row import CHAT_MODEL
from tests.vllm.server import CHAT_OPTIONS, ENVIRONMENT, OPTIONS, START_SECONDS, answers

END_SECONDS = 90  # The script itself kills after 20 s of its own counting, which takes longer on a busy machine.


def test_it_serves_and_sigterm_leaves_nothing_behind(vllm_python: Path, tmp_path: Path) -> None:
    port = free_port()
    environment = [word for name, value in ENVIRONMENT.items() for word in ("--env", f"{name}={value}")]
    command = [
        *("bash", str(HERE / "launch_vllm.sh"), "--port", str(port)),
        *("--model", str(vllm_python.parents[1] / "models" / "chat"), "--served-name", CHAT_MODEL),
        *("--venv", str(vllm_python.parents[1]), "--python", str(vllm_python), *environment),
        *("--attempts", "1", "--start-timeout", str(START_SECONDS), "--log-dir", str(tmp_path / "logs")),
        *("--", *OPTIONS, *CHAT_OPTIONS),
    ]
    process = Process(command, tmp_path / "launch.log")
    try:
        for _ in Deadline(START_SECONDS, f"vLLM is up ({process.log})"):
            if answers(f"http://127.0.0.1:{port}"):
                break
            assert process.alive, process.tail()
        for _ in Deadline(END_SECONDS, "the script says so"):
            if "vLLM is healthy on port" in process.tail():
                break
        started = children(process.pid)
        assert any("vllm.entrypoints.openai.api_server" in " ".join(words) for words in started.values())
        asked = subprocess.run(
            ["curl", "--silent", "--fail", f"http://127.0.0.1:{port}/v1/models"], capture_output=True, check=True
        )
        assert f'"{CHAT_MODEL}"'.encode() in asked.stdout
        os.kill(process.pid, 15)
        assert process.wait(END_SECONDS) == 143
        for _ in Deadline(END_SECONDS, "vLLM and its engine are gone"):
            if not any(Path(f"/proc/{pid}/cmdline").exists() for pid in started):
                break
    finally:
        process.kill()
    assert list((tmp_path / "logs").glob("vllm-*.log"))
