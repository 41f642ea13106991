"""Scheduler output, recorded where a scheduler could be had (tests/golden/schedulers/README.md), and hostile."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute_functions import queue_status as module
from compute_functions.queue_status import QueueError, queue_status

GOLDEN = Path(__file__).parents[2] / "golden" / "schedulers"
KEYS = {
    "id",
    "state",
    "scheduler_state",
    "models",
    "framework",
    "endpoint",
    "slot",
    "hosts",
    "comment",
    "nodes",
    "walltime",
    "expected_start",
    "position",
    "batch",
    "user",
}


def golden(name: str) -> str:
    return (GOLDEN / name).read_text()


def by_id(jobs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {job["id"].partition(".")[0]: job for job in jobs}


# Slurm


@pytest.mark.parametrize("state", ["pending", "ended"])
def test_both_outputs_of_a_real_slurm_say_the_same(state: str) -> None:
    """Each of Slurm's two outputs was recorded at the same moment: all that is read from them agrees."""
    from_json = module.slurm_json_jobs(golden(f"slurm-22.05-{state}.json"))
    from_text = module.slurm_text_jobs(golden(f"slurm-22.05-{state}.format.txt"))
    assert from_json == from_text
    assert all(set(job) == KEYS for job in from_json)


def test_a_running_and_a_queued_job_of_a_real_slurm() -> None:
    jobs = by_id(module.slurm_json_jobs(golden("slurm-22.05-pending.json")))
    assert jobs["1"] == {
        "id": "1",
        "state": "running",
        "scheduler_state": "RUNNING",
        "models": ["facebook/opt-125m"],
        "framework": "vllm",
        "endpoint": "clusters/expanse/endpoints/opt",
        "slot": 0,
        "hosts": "vm",
        "comment": "",
        "nodes": 1,
        "walltime": "1:00:00",
        "expected_start": "",
        "position": 0,
        "batch": False,
        "user": "root",
    }
    second = jobs["2"]
    assert (second["state"], second["position"], second["comment"]) == ("queued", 1, "Resources")
    assert second["models"] == ["facebook/opt-125m", "meta-llama/Llama-3.1-8B"]
    assert (second["walltime"], second["slot"]) == ("1-02:04:00", 1)
    assert second["expected_start"] == "2026-11-21T11:27:32Z"


def test_places_in_the_queue_count_other_peoples_jobs_and_leave_out_the_held() -> None:
    jobs = by_id(module.slurm_json_jobs(golden("slurm-22.05-pending.json")))
    assert jobs["5_[0-3%1]"]["position"] == 2, "job 2 is before it; job 3 waits in another partition"
    assert "7" not in jobs, "neither a tag nor a name of Weft's"
    assert jobs["4"]["position"] == 0, "held"
    assert (jobs["4"]["state"], jobs["4"]["comment"], jobs["4"]["batch"]) == ("queued", "JobHeldUser", True)
    assert jobs["8"]["position"] == 0, "waits for another job, not for its turn"
    assert "3" not in jobs
    assert "6" not in jobs, "a comment with a bar in it that is no tag"


def test_jobs_that_are_over_are_not_in_the_queue() -> None:
    text = golden("slurm-22.05-ended.json")
    assert {job["job_state"] for job in json.loads(text)["jobs"]} >= {"FAILED", "CANCELLED", "COMPLETED", "RUNNING"}
    assert [job["id"] for job in module.slurm_json_jobs(text)] == ["11", "4", "8"]


def test_the_json_of_later_slurms() -> None:
    jobs = by_id(module.slurm_json_jobs(golden("slurm-24.05-squeue.json")))
    assert (jobs["7001"]["state"], jobs["7001"]["nodes"], jobs["7001"]["walltime"]) == ("running", 2, "1-00:00:00")
    assert (jobs["7010_3"]["position"], jobs["7010_3"]["walltime"]) == (2, "UNLIMITED")
    assert jobs["7003"]["state"] == "other", "it is completing"


@pytest.mark.parametrize(("state", "expected"), [("pending", (0, 1)), ("ended", (0, 1)), ("drained", (0, 1))])
def test_nodes_of_a_real_slurm(state: str, expected: tuple[int, int]) -> None:
    assert module.slurm_nodes(golden(f"slurm-22.05-{state}.sinfo.txt")) == expected


def test_nodes_count_once_however_many_partitions_they_are_in() -> None:
    assert module.slurm_nodes("a|idle\na|idle\nb|idle~\nc|idle*\nd|mix\n") == (2, 4)


# PBS


def test_json_that_only_pbs_calls_json() -> None:
    text = golden("pbs-2022.1-qstat.json")
    with pytest.raises(ValueError, match="escape"):
        json.loads(text)
    foreign = module.pbs_json(text)["Jobs"]["102.sophia-pbs-01.lab.alcf.anl.gov"]["Variable_List"]
    assert foreign == {
        "MYVAR": "'\"asads\"'",
        "PATHS": "ab,c",
        "ZEROS": "005",
        "SCORE": "1.2.3",
        "NOTE": 'she said "go" and left',
        "BASH_FUNC_module%%": "() {  eval `/usr/bin/modulecmd bash $*`\n}",
    }


def test_jobs_of_pbs() -> None:
    jobs = by_id(module.pbs_jobs(module.pbs_json(golden("pbs-2022.1-qstat.json"))["Jobs"]))
    assert set(jobs) == {"101", "103", "104[]"}, "one is somebody's, one is over"
    first = jobs["101"]
    assert (first["state"], first["hosts"], first["nodes"]) == ("running", "sophia-gpu-03,sophia-gpu-04", 2)
    assert (first["endpoint"], first["slot"]) == ("clusters/sophia/endpoints/llama", 0)
    assert (first["walltime"], first["user"]) == ("24:00:00", "openinference_svc")
    second = jobs["103"]
    assert (second["position"], second["expected_start"]) == (2, "2026-11-22T09:43:07Z")
    assert second["models"] == ["meta-llama/Meta-Llama-3.1-405B-Instruct", "alias"]
    assert (jobs["104[]"]["state"], jobs["104[]"]["position"], jobs["104[]"]["batch"]) == ("queued", 0, True)


def test_pbs_in_text_says_what_its_json_says() -> None:
    from_text = by_id(module.pbs_jobs(module.pbs_text(golden("pbs-2022.1-qstat.txt"), "Job Id: ")))
    from_json = by_id(module.pbs_jobs(module.pbs_json(golden("pbs-2022.1-qstat.json"))["Jobs"]))
    assert from_text["103"] == from_json["103"]
    assert {**from_text["101"], "comment": ""} == {**from_json["101"], "comment": ""}


def test_nodes_of_pbs() -> None:
    assert module.pbs_nodes(module.pbs_json(golden("pbs-2022.1-pbsnodes.json"))["nodes"]) == (1, 4)
    assert module.pbs_nodes(module.pbs_text(golden("pbs-2022.1-pbsnodes.txt"), "")) == (1, 2)


def test_a_pbs_without_jobs_says_nothing_or_leaves_them_out() -> None:
    assert module.pbs_jobs(module.pbs_json("").get("Jobs")) == []
    assert module.pbs_jobs(module.pbs_json('{"timestamp":1}').get("Jobs")) == []


# Foreign input


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("weft:endpoint=clusters/a/endpoints/b;slot=1;models=m", {"endpoint": "clusters/a/endpoints/b", "slot": "1"}),
        ("weft:endpoint=;slot=1", None),
        ("weft:", None),
        ("not ours", None),
        ("", None),
    ],
)
def test_job_tags(text: str, tag: dict[str, str] | None) -> None:
    read = module.job_tag(text)
    assert (read is None) == (tag is None)
    assert (tag or {}).items() <= (read or {}).items()


def test_a_job_without_a_tag_is_known_by_its_name() -> None:
    line = module.SEPARATOR.join(["9", "PENDING", "gpu", "u", "1", "10:00", "N/A", "5", "None", "", "weft-opt-3", ""])
    [job] = module.slurm_text_jobs(line)
    assert (job["endpoint"], job["slot"], job["position"]) == ("", 3, 1)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_slurm_fields = st.sampled_from(
    [
        "job_id",
        "job_state",
        "comment",
        "name",
        "partition",
        "priority",
        "start_time",
        "time_limit",
        "node_count",
        "array_job_id",
        "array_task_id",
        "array_task_string",
        "nodes",
        "state_reason",
        "user_name",
    ]
)
_pbs_fields = st.sampled_from(
    [
        "job_state",
        "Job_Name",
        "queue",
        "Priority",
        "Resource_List",
        "Variable_List",
        "estimated",
        "exec_host",
        "comment",
        "Job_Owner",
    ]
)
_tags = st.text().map("weft:endpoint=e;slot=".__add__)


@given(st.lists(st.dictionaries(_slurm_fields, _values | _tags | st.just("PENDING")) | _values, max_size=4))
def test_no_json_of_slurm_makes_the_parser_fail(jobs: list[Any]) -> None:
    for job in module.slurm_json_jobs(json.dumps({"jobs": jobs})):
        assert set(job) == KEYS


@given(st.dictionaries(st.text(), st.dictionaries(_pbs_fields, _values | _tags | st.just("Q")) | _values, max_size=4))
def test_no_json_of_pbs_makes_the_parser_fail(jobs: dict[str, Any]) -> None:
    for job in module.pbs_jobs(jobs):
        assert set(job) == KEYS


@given(st.text() | st.text(alphabet='{}[]":,\\\n\t 0x=.'))
def test_text_that_is_nothing_is_refused_in_words_or_read_as_nothing(text: str) -> None:
    module.pbs_jobs(module.pbs_text(text, "Job Id: "))
    module.slurm_nodes(text)
    sentences: list[str] = []
    for parse in (module.pbs_json, module.slurm_json_jobs, module.slurm_text_jobs):
        try:
            parse(text)  # type: ignore[operator]
        except QueueError as why:
            sentences.append(str(why))
    assert all(sentences)


@given(st.dictionaries(st.text(), st.text().filter(lambda text: "\\" not in text)))
def test_what_is_json_reads_as_itself(value: dict[str, str]) -> None:
    assert module.pbs_json(json.dumps(value, indent=1)) == value


@given(st.text(alphabet="ab\"',").map(lambda text: text.replace("\\", "")))
def test_quotation_marks_that_pbs_forgot_to_escape(value: str) -> None:
    assert module.pbs_json('{\n  "comment":"' + value + '",\n  "next":1\n}') == {"comment": value, "next": 1}


# The function


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the commands of a scheduler, the only one on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("WEFT_SCHEDULER", raising=False)
    monkeypatch.setenv("WEFT_RUN_DIR", str(tmp_path / "run"))
    return folder


def command(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def says(file: str) -> str:
    return f"/bin/cat {GOLDEN / file}"


def test_slurm_with_json(scheduler: Path) -> None:
    command(scheduler, "squeue", f'[ "$1" = --json ] && {says("slurm-22.05-pending.json")}')
    command(scheduler, "sinfo", says("slurm-22.05-pending.sinfo.txt"))
    answer = queue_status({"scheduler": "auto", "user": None})
    assert (answer["scheduler"], answer["error"], answer["total_nodes"]) == ("slurm", "", 1)
    assert set(answer["jobs"][0]) == KEYS - {"user"}
    json.dumps(answer)


def test_slurm_without_json(scheduler: Path) -> None:
    command(scheduler, "squeue", f'[ "$1" = --json ] && exit 1\n{says("slurm-22.05-pending.format.txt")}')
    command(scheduler, "sinfo", says("slurm-22.05-pending.sinfo.txt"))
    answer = queue_status({"scheduler": "slurm"})
    assert [job["id"] for job in answer["jobs"]][:2] == ["1", "4"]
    assert answer["error"] == ""


def test_pbs_whose_json_cannot_be_mended(scheduler: Path) -> None:
    command(scheduler, "qstat", f'[ "$2" = -F ] && echo "{{" && exit\n{says("pbs-2022.1-qstat.txt")}')
    command(scheduler, "pbsnodes", says("pbs-2022.1-pbsnodes.json"))
    answer = queue_status({"scheduler": "auto"})
    assert (answer["scheduler"], answer["error"], answer["free_nodes"]) == ("pbs", "", 1)
    assert [job["position"] for job in answer["jobs"]] == [0, 2]


def test_one_users_jobs_keep_their_place_among_all(scheduler: Path) -> None:
    command(scheduler, "qstat", says("pbs-2022.1-qstat.json"))
    command(scheduler, "pbsnodes", says("pbs-2022.1-pbsnodes.json"))
    assert queue_status({"scheduler": "pbs", "user": "alice"})["jobs"] == []
    jobs = queue_status({"scheduler": "pbs", "user": "openinference_svc"})["jobs"]
    assert [job["position"] for job in jobs] == [0, 0, 2]


def test_a_scheduler_that_is_not_there_or_refuses_is_told_in_a_sentence(scheduler: Path) -> None:
    assert "'squeue' is not on PATH" in queue_status({"scheduler": "slurm"})["error"]
    command(scheduler, "qstat", "echo 'qstat: cannot connect to server' >&2; exit 111")
    answer = queue_status({"scheduler": "pbs"})
    assert "cannot connect to server" in answer["error"]
    assert answer["jobs"] == []
    assert "There is no scheduler 'lsf'" in queue_status({"scheduler": "lsf"})["error"]


def test_without_a_scheduler_the_jobs_are_the_workers_of_this_host(scheduler: Path, tmp_path: Path) -> None:
    def slot(name: str, **server: Any) -> None:
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "server.json").write_text(json.dumps(server))

    slot("a.b.0", pid=os.getpid(), endpoint="clusters/a/endpoints/b", slot=0, start="starts/s", state="ready")
    slot("a.gone.0", pid=2**22 + 1, endpoint="clusters/a/endpoints/gone", slot=0)
    slot("a.broken.0", pid="x")
    answer = queue_status({"scheduler": "auto"})
    assert (answer["scheduler"], answer["free_nodes"], answer["total_nodes"]) == ("local", 0, 1)
    assert [(job["endpoint"], job["state"]) for job in answer["jobs"]] == [("clusters/a/endpoints/b", "running")]
