"""Each thing that can be wrong with an endpoint is found by what was seen of it, with its remedy."""

from dataclasses import replace
from typing import Any

import pytest
from globus_compute_sdk.errors import TaskExecutionFailed
from globus_compute_sdk.serialize import ComputeSerializer, DillCode, DillDataBase64, PureSourceTextInspect

from services.cli.check import Check
from services.cli.endpoint_diagnosis import diagnose
from services.cli.endpoint_facts import Facts, FailedStart, Unanswered
from services.cli.globus_diagnostic import read_diagnostic
from services.core.globus import CallMode
from services.globus.control import EndpointStatus
from services.globus.errors import GlobusError, Kind, explain

ANSWER: dict[str, Any] = {
    "python": "3.12.4",
    "packages": {"vllm": "0.11.0"},
    "weft": "0.1.0",
    "vllm": {"version": "", "state": "none", "detail": "start-worker runs no vLLM here for this slot.", "url": ""},
    "gpus": [{"name": "A100"}, {"name": "A100"}],
    "routers": [{"address": "weft.example.org:7000", "reachable": True, "detail": ""}],
    "scheduler": "pbs",
    "job": {"id": "77.sophia", "host": "gpu7"},
    "host": "gpu7",
    "account": "weft",
    "site": {"vllm_command": True, "vllm_program": "/opt/vllm/bin/vllm", "worker_program": "/opt/weft/bin/weft"},
}
WELL = Facts(
    "clusters/sophia/endpoints/opt",
    "endpoint-uuid",
    status=EndpointStatus(online=True),
    needed={"functions/start-worker": ["s2", "s1"], "functions/probe": ["p"]},
    allowed=frozenset({"s1", "p"}),
    probe=ANSWER,
)
WORKER_LOST = (
    "Traceback (most recent call last):\n"
    "parsl.executors.high_throughput.errors.WorkerLost: Task failure due to loss of worker 0 on host gpu7\n"
)
REJECTED = """\
++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++
Traceback (most recent call last):
  File "/usr/lib/python3.11/concurrent/futures/_base.py", line 401, in __get_result
    raise self._exception
parsl.executors.errors.BadStateException: Executor GlobusComputeEngine-HighThroughputExecutor failed due to: Error 1:
	Failed to start block 0: Cannot launch job \
parsl.GlobusComputeEngine-HighThroughputExecutor.block-0.1795258623.470467: \
Could not read job ID from submit command standard output; recode=1, stdout=, stderr=sbatch: error: invalid partition \
specified: no-such-partition
sbatch: error: Batch job submission failed: Invalid partition name specified

Error 2:
	Failed to start block 1: Cannot launch job \
parsl.GlobusComputeEngine-HighThroughputExecutor.block-1.1795258623.490091: \
Could not read job ID from submit command standard output; recode=1, stdout=, stderr=sbatch: error: invalid partition \
specified: no-such-partition
sbatch: error: Batch job submission failed: Invalid partition name specified


--------------------------------------------------------------------"""
"""What came back from a real Slurm through a real agent."""
NO_AGENT = """\
parsl.executors.errors.BadStateException: Executor GlobusComputeEngine-HighThroughputExecutor failed due to: Error 1:
	Job is marked as MISSING since the workers failed to register to the executor. Check the stdout/stderr logs in the \
submit_scripts directory for more debug information
	STDERR: /var/spool/job00001/slurm_script: line 20: globus-compute-endpoint: command not found


--------------------------------------------------------------------"""
"""The same of a worker_init that activates nothing."""


def answered(**changes: Any) -> Facts:
    return replace(WELL, probe={**ANSWER, **changes})


def failed(remote: str) -> Facts:
    return replace(WELL, probe=explain(TaskExecutionFailed(remote)))


def wrong(facts: Facts) -> list[Check]:
    return [check for check in diagnose(facts) if not check.good]


def test_an_endpoint_that_is_well() -> None:
    assert [(check.part, check.good) for check in diagnose(WELL)] == [
        ("credentials", True),
        ("endpoint", True),
        ("functions", True),
        ("node", True),
        ("python", True),
        ("worker", True),
        ("vllm", True),
        ("routers", True),
    ]
    found = {check.part: check.found for check in diagnose(WELL)}
    assert found["node"] == "gpu7 as weft, job 77.sophia, 2 GPUs"
    assert found["routers"] == "the node reaches weft.example.org:7000"


@pytest.mark.parametrize(
    ("facts", "part", "found", "remedy"),
    [
        (
            Facts("e", "u", opened=GlobusError(Kind.BAD_CREDENTIALS, "Globus Auth refuses the credentials: x.")),
            "credentials",
            "refuses the credentials",
            "Check the client id and the secret",
        ),
        (
            Facts("e", "u", status=GlobusError(Kind.BAD_CREDENTIALS, "Globus Compute answers 401: x.")),
            "credentials",
            "answers 401",
            "Check the client id and the secret",
        ),
        (
            Facts("e", "u", status=GlobusError(Kind.UNKNOWN_ENDPOINT, "Globus Compute knows no endpoint u.")),
            "endpoint",
            "knows no endpoint u",
            "Check the endpoint's UUID",
        ),
        (
            replace(WELL, status=EndpointStatus(online=False), probe=None),
            "endpoint",
            "endpoint-uuid is offline",
            "globus-compute-endpoint start",
        ),
        (
            replace(WELL, allowed=frozenset({"p"}), probe=None),
            "functions",
            "functions/start-worker (s2) is not allowed",
            "add s2 to 'allowed_functions'",
        ),
        (
            failed("Function p not permitted on endpoint endpoint-uuid\n"),
            "functions",
            "Function p not permitted",
            "'allowed_functions'",
        ),
        (
            replace(WELL, needed={"functions/probe": []}, allowed="all", probe=None),
            "functions",
            "no version of functions/probe is registered",
            "weft functions register",
        ),
        (failed(WORKER_LOST), "python", "loss of worker 0", "the Python and the globus-compute-endpoint"),
        (failed('  File "<string>", line 3\nSyntaxError: invalid syntax\n'), "python", "invalid syntax", "3.9"),
        (failed(NO_AGENT), "python", "line 20: globus-compute-endpoint: command not found", "worker_init activate"),
        (answered(python="3.8.10"), "python", "is 3.8.10", "3.9 or newer"),
        (
            answered(python="3.10.2", weft="", site={"vllm_command": True}),
            "python",
            "'weft worker' needs 3.11",
            "WEFT_WORKER_PROGRAM",
        ),
        (answered(weft="", site={"vllm_command": True}), "worker", "'weft' is not found", "pip install weft"),
        (
            answered(packages={}, site={"vllm_command": False, "worker_flags": False}),
            "vllm",
            "nothing starts vLLM on the node",
            "WEFT_VLLM_COMMAND",
        ),
        (
            answered(site={"vllm_command": True, "vllm_program": ""}),
            "vllm",
            "the program that WEFT_VLLM_COMMAND names is not found",
            "activate the environment that has vLLM",
        ),
        (
            answered(routers=[{"address": "r:7000", "reachable": False, "detail": "connection refused"}]),
            "routers",
            "cannot reach r:7000: connection refused",
            "--call-mode task",
        ),
        (
            failed(REJECTED),
            "scheduler",
            "The endpoint answers: sbatch: error: invalid partition specified: no-such-partition; sbatch: error: Batch"
            " job submission failed: Invalid partition name specified.",
            "Correct the account, the queue",
        ),
        (
            replace(WELL, failed_start=FailedStart("starts/s", "qsub: would exceed queue's limit")),
            "scheduler",
            "starts/s failed: qsub: would exceed",
            "Correct the account, the queue",
        ),
        (
            replace(WELL, failed_start=FailedStart("starts/s", "its vLLM ended: CUDA out of memory.")),
            "last start",
            "CUDA out of memory",
            "mend what it says",
        ),
        (replace(WELL, probe=Unanswered(300.0)), "node", "no answer for 300 s", "--wait"),
        (failed("KeyError: 'x'\n"), "node", "KeyError", "logs"),
        (
            replace(WELL, allowed=GlobusError(Kind.SERVICE_UNAVAILABLE, "Globus Compute answers 503: x."), probe=None),
            "functions",
            "answers 503",
            "status.globus.org",
        ),
    ],
)
def test_what_is_wrong_is_found(facts: Facts, part: str, found: str, remedy: str) -> None:
    (check,) = wrong(facts)
    assert check.part == part
    assert found in check.found
    assert remedy in check.remedy


def test_a_serializer_that_is_not_allowed() -> None:
    serializer = ComputeSerializer(allowed_deserializer_types=[DillCode, DillDataBase64])
    with pytest.raises(Exception, match="PureSourceTextInspect disabled") as caught:
        serializer.assert_deserializer_allowed(PureSourceTextInspect())
    (check,) = wrong(failed(f"globus_compute_sdk.errors.DeserializationError: {caught.value!r}\n"))
    assert (check.part, "'allowed_serializers'" in check.remedy) == ("functions", True)


def test_calls_that_travel_as_tasks_need_no_router() -> None:
    facts = answered(routers=[{"address": "r:7000", "reachable": False, "detail": "timed out"}])
    assert wrong(replace(facts, call_mode=CallMode.TASK)) == []
    assert len(wrong(facts)) == 1


def test_what_starts_vllm_or_serves_calls_need_not_be_a_package() -> None:
    assert wrong(answered(packages={}, site={"worker_flags": True})) == []
    assert wrong(answered(weft="")) == [], "a program that is a container's"
    ready = {"version": "0.11.0", "state": "ready", "url": "http://127.0.0.1:8000"}
    found = {check.part: check.found for check in diagnose(answered(vllm=ready, site={}))}
    assert found["vllm"] == "vLLM 0.11.0 at http://127.0.0.1:8000 is ready"


def test_another_python_is_told_and_does_not_matter() -> None:
    def found(here: str) -> str:
        return next(check.found for check in diagnose(replace(WELL, python=here)) if check.part == "python")

    assert found("3.12.1") == "3.12.4 on the node"
    assert found("3.11.7").startswith("3.12.4 on the node, 3.11.7 here")
    assert wrong(replace(WELL, python="3.11.7")) == []


def test_nothing_is_said_of_what_was_not_asked() -> None:
    offline = replace(WELL, status=EndpointStatus(online=False), probe=None)
    assert {check.part for check in diagnose(offline)} == {"credentials", "endpoint", "functions"}


@pytest.mark.parametrize("odd", [{}, {"vllm": None, "routers": None, "job": 7, "gpus": "many"}])
def test_an_answer_from_another_version_does_not_confuse(odd: dict[str, Any]) -> None:
    assert {check.part for check in wrong(replace(WELL, probe=odd))} == {"python", "vllm"}


DIAGNOSTIC = """\
== Diagnostic: ifconfig ==
ifconfig was not found in the PATH

== Diagnostic: python:test_conn(compute.api.globus.org, 443) ==
Connected successfully to compute.api.globus.org over port 443!

== Diagnostic: python:test_conn(compute.amqps.globus.org, 5671) ==
Connection failed to compute.amqps.globus.org over port 5671: [Errno -2] Name or
service not known
Connection failed to compute.amqps.globus.org over port 5671: [Errno -2] Name or service not known

== Diagnostic: python:test_conn(localhost:5000, 443) ==
Connection failed to localhost:5000 over port 443: [Errno -2] Name or service not known
"""


def test_what_the_diagnostic_reports() -> None:
    (failure,) = read_diagnostic(DIAGNOSTIC, 0)
    assert failure.found == (
        "Connection failed to compute.amqps.globus.org over port 5671: [Errno -2] Name or service not known"
    )
    assert "443 and 5671" in failure.remedy
    (well,) = read_diagnostic(DIAGNOSTIC.replace("amqps.globus.org", "localhost"), 0)
    assert (well.good, "4 looks" in well.found) == (True, True)
    (broken,) = read_diagnostic("Traceback\nEOFError: EOF when reading a line\n", 1)
    assert "EOFError" in broken.found
