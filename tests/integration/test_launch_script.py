"""`launch_vllm.sh` with programs that pretend to be vLLM, Ray, srun, mpiexec and ssh."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testing.launching import SCRIPT, Launched, deadline
from tests.testing.processes import HeldPort

HEALTHY = "vLLM is healthy on port"

_held: list[HeldPort] = []
"""The ports of all runs: nobody else is given one between its choice and the script's use of it."""


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Launched]:
    one = Launched(tmp_path)
    try:
        yield one
    finally:
        one.close()


def free_port() -> int:
    _held.append(HeldPort())
    return _held[-1].port


def words(*more: str, port: int | None = None) -> list[str]:
    return ["--port", str(port or free_port()), "--model", "org/model", *more]


def gone(launched: Launched) -> None:
    for _ in deadline(f"all processes of {launched.folder} are gone"):
        if not launched.alive:
            return


def test_it_starts_vllm_says_when_it_is_healthy_and_ends_it_on_sigterm(launched: Launched) -> None:
    launched.mark("healthy")
    port = free_port()
    launched.start(
        *words("--served-name", "a", "--served-name", "b c", "--tensor-parallel", "4", "--", "--x", port=port)
    )
    launched.until(HEALTHY)
    called = (
        f"vllm serve org/model --host 127.0.0.1 --port {port} --served-model-name a b c --tensor-parallel-size 4 --x"
    )
    assert launched.calls == [called]
    assert launched.terminate() == 143
    gone(launched)


def test_a_vllm_that_does_not_listen_to_sigterm_is_killed_with_its_engine(launched: Launched) -> None:
    launched.mark("healthy")
    launched.mark("stubborn")
    launched.start(*words("--stop-timeout", "1"))
    launched.until(HEALTHY)
    assert launched.terminate() == 143
    gone(launched)


def test_sigterm_while_vllm_loads_ends_it_too(launched: Launched) -> None:
    launched.start(*words())
    for _ in deadline("vLLM is called"):
        if launched.calls and launched.alive:
            break
    assert launched.terminate() == 143
    gone(launched)


def test_a_vllm_that_dies_at_start_is_started_again_and_then_given_up(launched: Launched) -> None:
    launched.mark("broken")
    assert launched.run(*words("--attempts", "3")) == 69
    assert len(launched.calls) == 3
    assert "ended with status 7 before it was healthy" in launched.said
    assert "did not become healthy in 3 attempts" in launched.said


def test_a_vllm_that_never_becomes_healthy_is_ended_after_its_time(launched: Launched) -> None:
    assert launched.run(*words("--attempts", "1", "--start-timeout", "1")) == 69
    assert "not healthy after 1 s" in launched.said
    gone(launched)


def test_when_vllm_ends_by_itself_the_script_ends_with_its_status(launched: Launched) -> None:
    launched.mark("healthy")
    launched.start(*words())
    launched.until(HEALTHY)
    server, _ = launched.alive
    subprocess.run(["kill", "-KILL", str(server)], check=True)
    assert launched.wait() == 137
    gone(launched)
    assert len(launched.calls) == 1, "what was healthy once is started again by whoever called the script, not by it"


def test_the_environment_is_entered_in_order_and_values_are_taken_as_they_are(
    launched: Launched, tmp_path: Path
) -> None:
    launched.mark("healthy")
    for name in ("conda", "venv"):
        folder = tmp_path / name / "bin"
        folder.mkdir(parents=True)
        (folder / "activate").write_text(f'export ENTERED="${{ENTERED:-}} {name}"\n')
    (launched.bin / "conda").write_text(f"#!/bin/bash\necho 'conda() {{ source \"{tmp_path}/$2/bin/activate\"; }}'\n")
    (launched.bin / "conda").chmod(0o755)
    modules = tmp_path / "modules.sh"
    modules.write_text('module() { ENTERED="${ENTERED:-} $*"; export ENTERED; }\nexport -f module\n')
    hostile = "a b; $(touch hacked) 'c' \"d\""
    launched.start(
        *words(
            *("--setup", f"source {modules}", "--module-path", "/soft", "--module", "conda", "--conda", "conda"),
            *("--venv", str(tmp_path / "venv"), "--env", f"HOSTILE={hostile}"),
            *("--proxy", "http://proxy:3128", "--no-proxy", "localhost,.site", "--interface", "lo"),
        )
    )
    launched.until(HEALTHY)
    found = launched.environment
    assert found["ENTERED"].split() == ["use", "/soft", "load", "conda", "conda", "venv"]
    assert found["HOSTILE"] == hostile
    assert found["https_proxy"] == found["HTTP_PROXY"] == "http://proxy:3128"
    assert found["no_proxy"] == "localhost,.site"
    assert found["NCCL_SOCKET_IFNAME"] == found["GLOO_SOCKET_IFNAME"] == "lo"
    launched.terminate()


def test_a_missing_environment_is_told(launched: Launched) -> None:
    assert launched.run(*words("--venv", "/nowhere")) == 2
    assert "there is no virtual environment /nowhere" in launched.said
    assert launched.calls == []


def test_logs_go_to_their_folder(launched: Launched, tmp_path: Path) -> None:
    launched.mark("healthy")
    launched.start(*words(), environ={"WEFT_LOG_DIR": str(tmp_path / "logs"), "SLURM_JOB_ID": "17"})
    launched.until(HEALTHY)
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["vllm-17.log"]
    launched.terminate()


SLURM = {"SLURM_JOB_NODELIST": "head,n1,n2"}
PARALLEL = ("--nodes", "3", "--tensor-parallel", "4", "--pipeline-parallel", "3", "--gpus-per-node", "4")


@pytest.mark.parametrize(
    ("reach", "call"),
    [
        ("srun", "srun --overlap --nodes=1 --ntasks=1 --cpu-bind=none --nodelist=n1 "),
        ("mpiexec", "mpiexec --hosts n1 -n 1 "),
        ("ssh", "ssh -o BatchMode=yes -tt n1 "),
        ("srun -n 1 --nodelist={node}", "srun -n 1 --nodelist=n1 "),
    ],
)
def test_ray_spans_the_nodes_and_ends_with_vllm(launched: Launched, reach: str, call: str) -> None:
    launched.mark("healthy")
    launched.start(*words(*PARALLEL, "--reach", reach, "--env", "A=b c"), environ=SLURM)
    launched.until(HEALTHY)
    calls = launched.calls
    head = next(c for c in calls if c.startswith("ray start --head"))
    assert head == (
        "ray start --head --node-ip-address 10.1.2.3 --port 6379 --num-gpus 4 --block --include-dashboard=false on head"
    )
    joined = [c for c in calls if c.startswith("ray start --address 10.1.2.3:6379")]
    assert sorted(c.rpartition(" ")[2] for c in joined) == ["n1", "n2"]
    assert any(c.startswith(call) for c in calls)
    server = next(c for c in calls if c.startswith("vllm"))
    assert "--tensor-parallel-size 4 --pipeline-parallel-size 3 --distributed-executor-backend ray" in server
    assert calls.index(server) > max(calls.index(c) for c in joined), "vLLM starts when all nodes have joined"
    assert launched.environment["RAY_ADDRESS"] == "10.1.2.3:6379"
    assert launched.terminate() == 143
    gone(launched)


def test_the_nodes_of_pbs_are_those_of_its_file_each_once(launched: Launched, tmp_path: Path) -> None:
    launched.mark("healthy")
    nodes = tmp_path / "nodes"
    nodes.write_text("head.site\nhead.site\nn1.site\nn1.site\nn2.site\n")
    launched.start(*words(*PARALLEL, "--reach", "mpiexec"), environ={"PBS_NODEFILE": str(nodes)})
    launched.until(HEALTHY)
    reached = [c.split()[2] for c in launched.calls if c.startswith("mpiexec")]
    assert sorted(reached) == ["n1.site", "n2.site"]
    launched.terminate()
    gone(launched)


def test_open_mpi_is_called_by_its_own_names(launched: Launched) -> None:
    launched.mark("healthy")
    launched.mark("openmpi")
    launched.start(*words("--nodes", "2", "--reach", "mpiexec"), environ=SLURM)
    launched.until(HEALTHY)
    assert [c for c in launched.calls if c.startswith("mpiexec --host n1 -n 1 ")]
    launched.terminate()
    gone(launched)


def test_a_node_where_ray_does_not_start_ends_all(launched: Launched) -> None:
    launched.mark("ray-broken-on-n2")
    assert launched.run(*words(*PARALLEL, "--reach", "srun"), environ=SLURM) == 70
    assert "Ray ended on one of the nodes" in launched.said
    gone(launched)
    assert not [c for c in launched.calls if c.startswith("vllm")]


@pytest.mark.parametrize(
    ("given", "environ", "status", "said"),
    [
        (["--model", "m"], {}, 2, "--port is needed"),
        (["--port", "1"], {}, 2, "--model is needed"),
        (["--port", "abc"], {}, 2, "a whole number above zero, not 'abc'"),
        (["--port"], {}, 2, "--port takes a value"),
        (["--prot", "1"], {}, 2, "unknown parameter '--prot'"),
        (["stray"], {}, 2, "go behind --"),
        ([*words(), "--nodes", "2"], {}, 2, "needs --reach"),
        ([*words(), "--nodes", "2", "--reach", "srun"], {}, 70, "needs a job of a scheduler"),
        ([*words(), "--nodes", "9", "--reach", "srun"], SLURM, 70, "the job has 2 nodes beside this one"),
        ([*words(), "--nodes", "2", "--reach", "telnet"], SLURM, 2, "not 'telnet'"),
        ([*words(), "--nodes", "2", "--reach", "srun", "--interface", "nope0"], SLURM, 70, "nope0 has no address"),
    ],
)
def test_what_cannot_be_is_told(
    launched: Launched, given: list[str], environ: dict[str, str], status: int, said: str
) -> None:
    assert launched.run(*given, environ=environ) == status
    assert said in launched.said
    gone(launched)


def test_its_help_names_every_parameter() -> None:
    text = SCRIPT.read_text()
    told = subprocess.run(["bash", str(SCRIPT), "--help"], capture_output=True, text=True, check=True).stdout
    taken = set(re.findall(r"(--[a-z-]+)(?=\)| \|)", text.split("parse() {")[1].split("\n}")[0])) - {"--join"}
    assert len(taken) > 20
    assert {flag for flag in taken if f"  {flag} " not in told} == {"--help"}
