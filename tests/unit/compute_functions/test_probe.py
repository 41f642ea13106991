"""The probe on a node with little, and on one with everything."""

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute_functions.probe import probe
from tests.unit.compute_functions.listener import answer_of, listening
from tests.unit.compute_functions.test_queue_status import command


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node whose only commands are those that a test puts into the folder."""
    for name in list(os.environ):
        if name.startswith(("WEFT_", "SLURM_", "PBS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WEFT_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def test_a_bare_node() -> None:
    found = probe({"routers": ["127.0.0.1:9"], "endpoint": "clusters/a/endpoints/b", "slot": 0})
    json.dumps(found)
    assert found["routers"] == [{"address": "127.0.0.1:9", "reachable": False, "detail": "Connection refused."}]
    assert (found["gpus"], found["weft"], found["scheduler"]) == ([], "", "local")
    assert found["vllm"]["state"] == "none"
    assert found["site"]["vllm_command"] is False
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["packages"]["globus-compute-sdk"]
    assert found["errors"] == {}


def test_a_node_with_gpus_a_worker_and_a_vllm(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(site, "nvidia-smi", "echo 'NVIDIA A100-SXM4-80GB, 81920, 1024, 550.54.15'")
    command(site, "squeue", "exit 1")
    (site / "weft").write_text(f"#!{sys.executable}\n")
    (site / "weft").chmod(0o755)
    monkeypatch.setenv("WEFT_VLLM_COMMAND", "squeue serve --api-key secret-key")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1795260452")
    with listening(answer_of(b'{"version":"0.32.0"}')) as it:
        (tmp_path / "run" / "a.b.1").mkdir(parents=True)
        server = {"url": it.url, "pid": os.getpid(), "start": "starts/s"}
        (tmp_path / "run" / "a.b.1" / "server.json").write_text(json.dumps(server))
        found = probe({"routers": [f"127.0.0.1:{it.port}"], "endpoint": "clusters/a/endpoints/b", "slot": 1})
    assert found["gpus"] == [
        {"name": "NVIDIA A100-SXM4-80GB", "memory_mib": 81920, "used_mib": 1024, "driver": "550.54.15"}
    ]
    assert found["vllm"] == {
        "version": "0.32.0",
        "state": "ready",
        "detail": f"vLLM at {it.url} is well.",
        "url": it.url,
    }
    assert found["weft"] == "0.1.0"
    assert found["routers"][0]["reachable"] is True
    assert (found["scheduler"], found["job"]["id"], found["job"]["end_time"]) == ("slurm", "7", 1795260452)
    assert found["site"]["vllm_program"] == str(site / "squeue")
    assert "secret-key" not in json.dumps(found)


def test_one_part_that_fails_is_named_and_the_others_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_VLLM_COMMAND", "vllm 'serve")
    found = probe({})
    assert found["errors"] == {"site": "ValueError: No closing quotation"}
    assert found["site"] == {}
    assert found["packages"]


@settings(max_examples=20)
@given(
    st.dictionaries(
        st.sampled_from(["routers", "endpoint", "slot"]),
        st.none() | st.integers() | st.text() | st.lists(st.text(), max_size=2),
    )
)
def test_no_request_makes_it_fail(request: dict[str, object]) -> None:
    json.dumps(probe(request))
