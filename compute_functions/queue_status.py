"""What the cluster's scheduler says of Weft's jobs; runs on a login node, sent as the text of this file."""

from __future__ import annotations

import calendar
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

Job = dict[str, Any]

COMMAND_SECONDS = 60.0
SEPARATOR = "\x1f"
SQUEUE_FIELDS = (
    *(("JobArrayID", 64), ("State", 32), ("Partition", 64), ("UserName", 64), ("NumNodes", 16), ("TimeLimit", 32)),
    *(("StartTime", 32), ("PriorityLong", 32), ("Reason", 256), ("NodeList", 1024), ("Name", 256), ("Comment", 2048)),
)
"""What is asked of a squeue that has no JSON, with widths, because it cuts fields to 20 characters else."""

SLURM_STATES = {
    **dict.fromkeys(("RUNNING", "SIGNALING", "STAGE_OUT"), "running"),
    **dict.fromkeys(
        ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"), "queued"
    ),
    **dict.fromkeys(("SUSPENDED", "STOPPED"), "stopped"),
}
SLURM_OVER = frozenset(
    [
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    ]
)
PBS_STATES = {
    **dict.fromkeys("RB", "running"),
    **dict.fromkeys("QHWT", "queued"),
    **dict.fromkeys("SU", "stopped"),
}
PBS_OVER = frozenset("FXM")


class QueueError(Exception):
    """The scheduler could not be asked, or its answer not be read; the message is for administrators."""


def queue_status(request: dict[str, Any]) -> dict[str, Any]:
    """Asks the scheduler for Weft's jobs.

    `request`: `scheduler` (`auto`, `pbs`, `slurm` or `local`) and `user` (None means all that the account may see).
    Gives `scheduler`, `jobs` (running first, then by their place in the queue), `free_nodes`, `total_nodes` and
    `error`, a sentence that is empty where all went well. It raises nothing.
    """
    scheduler = ""
    jobs: list[Job] = []
    free, total, error = 0, 0, ""
    try:
        scheduler = _scheduler(str(request.get("scheduler") or "auto"))
        if scheduler == "slurm":
            jobs = _slurm_jobs()
            free, total = slurm_nodes(_run("sinfo", "--noheader", "--Node", "--format=%N|%t"))
        elif scheduler == "pbs":
            jobs = _pbs_jobs()
            free, total = _pbs_nodes()
        else:
            jobs = local_jobs(_run_folder())
            free, total = (0 if jobs else 1), 1
    except QueueError as why:
        error = str(why)
    user = request.get("user")
    mine = [job for job in jobs if not user or job["user"] in ("", user)]
    return {
        "scheduler": scheduler,
        "jobs": [{name: value for name, value in job.items() if name != "user"} for job in mine],
        "free_nodes": free,
        "total_nodes": total,
        "error": error,
    }


def _scheduler(asked: str) -> str:
    if asked == "auto":
        asked = os.environ.get("WEFT_SCHEDULER") or "auto"
    if asked == "auto":
        # Slurm first: some sites give their Slurm a `qstat` for people who are used to one.
        return "slurm" if shutil.which("squeue") else "pbs" if shutil.which("qstat") else "local"
    if asked not in ("pbs", "slurm", "local"):
        raise QueueError(f"There is no scheduler {asked!r}: use 'auto', 'pbs', 'slurm' or 'local'.")
    return asked


def _run(*command: str) -> str:
    """The output of a command. Raises `QueueError` if it is not there, fails or takes too long."""
    try:
        # In UTC, so that a time in words means the same on every node and to every reader.
        environ = {**os.environ, "TZ": "UTC", "LC_ALL": "C"}
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=COMMAND_SECONDS, check=False, env=environ
        )
    except FileNotFoundError:
        raise QueueError(
            f"'{command[0]}' is not on PATH where the queue is asked: add it in the endpoint's worker_init."
        ) from None
    except OSError as why:
        raise QueueError(f"'{command[0]}' cannot be run: {why.strerror}.") from None
    except subprocess.TimeoutExpired:
        raise QueueError(f"'{command[0]}' did not answer within {COMMAND_SECONDS:g} s.") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise QueueError(f"'{' '.join(command[:2])}' failed: {said[-1][:300] if said else done.returncode}")
    return done.stdout.decode(errors="replace")


# What all schedulers have in common


def job_tag(text: str) -> dict[str, str] | None:
    """The fields of a job tag, `weft:endpoint=…;slot=…;models=…`; None if the text is none."""
    if not text.startswith("weft:"):
        return None
    fields = dict(part.strip().partition("=")[::2] for part in text[len("weft:") :].split(";"))
    return fields if fields.get("endpoint") else None


def _job(identity: str, name: str, tag: str, **fields: Any) -> Job | None:
    """A job as the launcher reads it; None if it is not Weft's."""
    tagged = job_tag(tag)
    named = re.fullmatch(r"weft-(?:.+-)?(\d{1,6})", name)
    if tagged is None and named is None:
        return None
    tagged = tagged or {}
    slot = tagged.get("slot") or (named[1] if named else "0")
    job = {
        "id": identity,
        "state": "other",
        "scheduler_state": "",
        "models": [model for model in tagged.get("models", "").split("|") if model],
        "framework": "vllm",
        "endpoint": tagged.get("endpoint", ""),
        "slot": int(slot) if slot.isascii() and slot.isdigit() else 0,
        "hosts": "",
        "comment": "",
        "nodes": 0,
        "walltime": "",
        "expected_start": "",
        "position": 0,
        "batch": tagged.get("batch") == "1",
        "user": "",
    }
    job.update(fields)
    return job


def _in_order(queued: list[tuple[tuple[Any, ...], str, Job | None]], others: list[Job]) -> list[Job]:
    """Numbers the queued jobs within their queues, of which Weft's are kept. `queued`: sort key, queue, job."""
    places: dict[str, int] = {}
    waiting: list[Job] = []
    for _, queue, job in sorted(queued, key=lambda entry: entry[0]):
        places[queue] = places.get(queue, 0) + 1
        if job is not None:
            job["position"] = places[queue]
            waiting.append(job)
    return sorted(others, key=lambda job: (job["state"] != "running", job["id"])) + waiting


def _number(value: Any) -> int:
    """A whole number, of what is one in any spelling; 0 of what is none."""
    if isinstance(value, dict):  # Slurm since 23.02: {"set": true, "infinite": false, "number": 60}
        value = value.get("number") if value.get("set", True) and not value.get("infinite") else 0
    try:
        return int(value or 0)
    except (TypeError, ValueError, OverflowError):
        return 0


def _utc(seconds: int) -> str:
    """A time as the schedulers write it, in UTC."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)) if seconds > 0 else ""
    except (OverflowError, ValueError, OSError):
        return ""


# Slurm


def _slurm_jobs() -> list[Job]:
    try:
        return slurm_json_jobs(_run("squeue", "--json"))
    except QueueError:  # It has no JSON, or lacks the plug-in for it.
        columns = ",".join(f"{name}:{width}{SEPARATOR}" for name, width in SQUEUE_FIELDS[:-1])
        last, width = SQUEUE_FIELDS[-1]
        return slurm_text_jobs(_run("squeue", "--noheader", f"--Format={columns},{last}:{width}"))


def slurm_json_jobs(text: str) -> list[Job]:
    """Reads `squeue --json`, of 21.08 and later. Raises `QueueError` if it cannot be read."""
    try:
        answer = json.loads(text)
    except ValueError as why:
        raise QueueError(f"'squeue --json' gave no JSON: {why}") from None
    listed = answer.get("jobs") if isinstance(answer, dict) else None
    if not isinstance(listed, list):
        raise QueueError("'squeue --json' gave no list of jobs.")
    return _slurm_jobs_of([_slurm_record(entry) for entry in listed if isinstance(entry, dict)])


def _slurm_record(entry: dict[str, Any]) -> dict[str, str]:
    """An entry of `squeue --json`, in the fields and spellings of `squeue --Format`."""
    states = entry.get("job_state") or ""
    array, task = _number(entry.get("array_job_id")), entry.get("array_task_id")
    tasks = str(entry.get("array_task_string") or "")
    alone = isinstance(task, dict) and not task.get("set", True)
    if array and task is not None and not alone:
        identity = f"{array}_{_number(task)}"
    else:
        identity = f"{array}_[{tasks}]" if array and tasks else str(_number(entry.get("job_id")))
    start = _utc(_number(entry.get("start_time")))
    return {
        "JobArrayID": identity,
        # A list since 23.02: a state and its flags, such as ["RUNNING", "COMPLETING"].
        "State": str(states[-1] if isinstance(states, list) else states),
        "Partition": str(entry.get("partition") or ""),
        "UserName": str(entry.get("user_name") or ""),
        "NumNodes": str(_number(entry.get("node_count"))),
        "TimeLimit": _slurm_minutes(entry.get("time_limit")),
        "StartTime": start,
        "PriorityLong": str(_number(entry.get("priority"))),
        "Reason": str(entry.get("state_description") or entry.get("state_reason") or ""),
        "NodeList": str(entry.get("nodes") or ""),
        "Name": str(entry.get("name") or ""),
        "Comment": _slurm_comment(entry.get("comment")),
    }


def _slurm_comment(comment: Any) -> str:
    if isinstance(comment, dict):  # slurmdbd's shape: {"administrator": …, "job": …, "system": …}
        comment = comment.get("job")
    return str(comment or "")


def _slurm_minutes(limit: Any) -> str:
    if limit is None or (isinstance(limit, dict) and (limit.get("infinite") or not limit.get("set", True))):
        return "UNLIMITED"
    days, rest = divmod(_number(limit), 24 * 60)
    hours, minutes = divmod(rest, 60)
    if days:
        return f"{days}-{hours:02}:{minutes:02}:00"
    return f"{hours}:{minutes:02}:00" if hours else f"{minutes}:00"


def slurm_text_jobs(text: str) -> list[Job]:
    """Reads `squeue --Format` with `SQUEUE_FIELDS`."""
    names = [name for name, _ in SQUEUE_FIELDS]
    records = []
    for line in text.split("\n"):
        parts = [part.strip() for part in line.split(SEPARATOR, len(names) - 1)]
        if len(parts) == len(names):
            record = {name: "" if part in ("N/A", "(null)") else part for name, part in zip(names, parts)}  # noqa: B905
            record["StartTime"] += "Z" if record["StartTime"][-1:].isdigit() else ""  # TZ is UTC
            records.append(record)
    if text.strip() and not records:
        raise QueueError("The output of 'squeue --Format' is not as expected.")
    return _slurm_jobs_of(records)


def _slurm_jobs_of(records: list[dict[str, str]]) -> list[Job]:
    queued: list[tuple[tuple[Any, ...], str, Job | None]] = []
    others: list[Job] = []
    for record in records:
        word = record["State"]
        state = SLURM_STATES.get(word, "other")
        if word in SLURM_OVER:
            continue
        reason = "" if record["Reason"] in ("None", "none") else record["Reason"]
        job = _job(
            record["JobArrayID"],
            record["Name"],
            record["Comment"],
            state=state,
            scheduler_state=word,
            hosts=record["NodeList"],
            comment=reason,
            nodes=_number(record["NumNodes"]),
            walltime=record["TimeLimit"],
            expected_start=record["StartTime"] if state == "queued" else "",
            user=record["UserName"],
        )
        priority = _number(record["PriorityLong"])
        held = priority == 0 or reason.startswith(("JobHeld", "Dependency"))
        if word == "PENDING" and not held:
            key = (-priority, _leading_number(record["JobArrayID"]))
            queued.append((key, record["Partition"], job))
        elif job is not None:
            others.append(job)
    return _in_order(queued, others)


def slurm_nodes(text: str) -> tuple[int, int]:
    """Free nodes and all nodes, of `sinfo --Node --format=%N|%t`, which names a node once for each partition."""
    states = dict(line.split("|", 1) for line in text.split() if "|" in line)
    # A state may carry a mark: `~` is asleep, and woken when wanted; `*` does not answer.
    return sum(state in ("idle", "idle~") for state in states.values()), len(states)


def _leading_number(identity: str) -> int:
    digits = re.match(r"\d{1,18}", identity, re.ASCII)
    return int(digits[0]) if digits else 0


# PBS


def _pbs_jobs() -> list[Job]:
    # Not with -u: some versions then write a table in front of the JSON, and leave the jobs out of it.
    try:
        return pbs_jobs(pbs_json(_run("qstat", "-f", "-F", "json")).get("Jobs"))
    except QueueError:  # A version before 14, or JSON that cannot be mended: in text there is nothing to mend.
        return pbs_jobs(pbs_text(_run("qstat", "-f"), "Job Id: "))


def _pbs_nodes() -> tuple[int, int]:
    try:
        return pbs_nodes(pbs_json(_run("pbsnodes", "-a", "-F", "json")).get("nodes"))
    except QueueError:
        return pbs_nodes(pbs_text(_run("pbsnodes", "-a"), ""))


def pbs_json(text: str) -> dict[str, Any]:
    """Reads what PBS calls JSON. Raises `QueueError` if it cannot be mended.

    Depending on its version, PBS writes escapes that JSON has not (`\\'`, `\\,`), quotation marks inside of texts as
    they are, numbers with leading zeros, and line breaks in texts. It writes one field a line, which helps.
    """
    if not text.strip():
        return {}
    try:
        answer = json.loads(text, strict=False)
    except ValueError:
        try:
            answer = json.loads("\n".join(_mended(line) for line in text.split("\n")), strict=False)
        except (ValueError, RecursionError) as why:
            raise QueueError(f"PBS gave JSON that cannot be read: {why}") from None
    except RecursionError:
        raise QueueError("PBS gave JSON that cannot be read: it is nested too deeply.") from None
    if not isinstance(answer, dict):
        raise QueueError("PBS gave JSON that is not an object.")
    return answer


def _mended(line: str) -> str:
    field = re.fullmatch(r'(\s*"[^"]*"\s*:\s*)(.*?)(,?\s*)', line)
    if field is None or field[2] in ("{", "[", "{}", "[]"):
        return line
    value = field[2]
    try:
        json.loads(value, strict=False)
    except ValueError:
        quoted = len(value) > 1 and value[0] == value[-1] == '"'
        plain = value[1:-1] if quoted else value
        # What PBS escaped well is taken back first, so that it is not escaped twice.
        plain = re.sub(r"\\(.)", lambda escape: {"n": "\n", "t": "\t"}.get(escape[1], escape[1]), plain)
        return field[1] + json.dumps(plain) + field[3]
    return line


def pbs_text(text: str, head: str) -> dict[str, dict[str, Any]]:
    """Reads `qstat -f` (its `head` is `Job Id: `) or `pbsnodes -a` (no head): the attributes of each, by its name."""
    found: dict[str, dict[str, Any]] = {}
    attributes: dict[str, Any] | None = None
    last = ""
    for line in text.split("\n"):
        if line.startswith("\t"):  # The attribute before goes on; qstat breaks lines at 79 characters.
            if attributes is not None and last:
                attributes[last] += line[1:]
        elif line and not line[0].isspace():
            attributes = found.setdefault(line[len(head) :].strip(), {}) if line.startswith(head) else None
            last = ""
        elif attributes is not None and " = " in line:
            last, _, attributes_value = line.strip().partition(" = ")
            attributes[last] = attributes_value
    return {name: _nested(fields) for name, fields in found.items()}


def _nested(fields: dict[str, str]) -> dict[str, Any]:
    """`Resource_List.nodect` of the text as the JSON has it, in an object of its own; Variable_List too."""
    nested: dict[str, Any] = {}
    for name, value in fields.items():
        group, dot, member = name.partition(".")
        if dot:
            inside = nested.setdefault(group, {})
            if isinstance(inside, dict):
                inside[member] = value
        else:
            nested[name] = value
    if isinstance(nested.get("Variable_List"), str):
        pairs = re.split(r"(?<!\\),", nested["Variable_List"])
        nested["Variable_List"] = dict(pair.replace("\\,", ",").partition("=")[::2] for pair in pairs)
    return nested


def pbs_jobs(listed: Any) -> list[Job]:
    """The jobs of `qstat -f`: an object with one member a job, in the nested shape of its JSON."""
    queued: list[tuple[tuple[Any, ...], str, Job | None]] = []
    others: list[Job] = []
    for identity, entry in listed.items() if isinstance(listed, dict) else ():
        if not isinstance(entry, dict) or str(entry.get("job_state")) in PBS_OVER:
            continue
        word = str(entry.get("job_state") or "")
        state = PBS_STATES.get(word, "other")
        resources, estimated = _object(entry.get("Resource_List")), _object(entry.get("estimated"))
        job = _job(
            identity,
            str(entry.get("Job_Name") or ""),
            str(_object(entry.get("Variable_List")).get("WEFT_JOB") or ""),
            state=state,
            scheduler_state=word,
            hosts=_pbs_hosts(str(entry.get("exec_host") or "")),
            comment=str(entry.get("comment") or ""),
            nodes=_number(resources.get("nodect")),
            walltime=str(resources.get("walltime") or ""),
            expected_start=_pbs_start(estimated.get("start_time")) if state == "queued" else "",
            user=str(entry.get("Job_Owner") or "").partition("@")[0],
        )
        if word in ("Q", "W", "T"):
            key = (-_number(entry.get("Priority")), _leading_number(identity))
            queued.append((key, str(entry.get("queue") or ""), job))
        elif job is not None:
            others.append(job)
    return _in_order(queued, others)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _pbs_start(value: Any) -> str:
    """A time that is a number in some versions, and in words (`Sat Nov 21 12:00:00 2026`) in others."""
    try:
        return _utc(_number(value) or calendar.timegm(time.strptime(str(value))))
    except (ValueError, OverflowError):
        return str(value or "")


def _pbs_hosts(exec_host: str) -> str:
    """`node1/0*8+node1/1*8+node2/0*8` gives `node1,node2`."""
    return ",".join(dict.fromkeys(chunk.partition("/")[0].strip("()") for chunk in exec_host.split("+") if chunk))


def pbs_nodes(listed: Any) -> tuple[int, int]:
    """Free nodes, on which nothing runs, and all nodes, of `pbsnodes -a`."""
    nodes = [node for node in listed.values() if isinstance(node, dict)] if isinstance(listed, dict) else []
    free = sum(node.get("state") == "free" and not node.get("jobs") for node in nodes)
    return free, len(nodes)


# No scheduler


def _run_folder() -> Path:
    named = os.environ.get("WEFT_RUN_DIR")
    return Path(named) if named else Path(os.environ.get("TMPDIR") or "/tmp") / f"weft-{os.getuid()}"  # noqa: S108


def local_jobs(folder: Path) -> list[Job]:
    """What start-worker keeps on this host, from the `server.json` of each slot."""
    jobs: list[Job] = []
    for file in sorted(folder.glob("*/server.json")):
        try:
            server = json.loads(file.read_bytes())
            os.kill(int(server["pid"]), 0)
            state = "running" if server.get("state") == "ready" else "queued"
            tag = server.get("tag") or f"weft:endpoint={server['endpoint']};slot={server['slot']}"
            job = _job(
                str(server["pid"]),
                "",
                str(tag),
                state="running",
                scheduler_state=state,
                hosts=os.uname().nodename,
                nodes=1,
            )
        except (OSError, ValueError, KeyError, TypeError, OverflowError):  # Gone, or of somebody else.
            continue
        if job is not None:
            jobs.append(job)
    return jobs
