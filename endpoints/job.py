"""The shell that a node runs before anything else (`worker_init`), and the command that launches vLLM there."""

from __future__ import annotations

import re
import shlex

from endpoints.mistakes import EndpointFilesError
from endpoints.model import Model
from endpoints.quoting import Expr, Pieces, Text, given, shell_path, shell_words
from endpoints.settings import Settings
from endpoints.site import Environment, Site

LAUNCH_SCRIPT = "launch_vllm.sh"
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+@-]*")
_REACHES = ("srun", "mpiexec", "ssh")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def model_names(model: Model) -> list[str]:
    """The names it is served as. Raises EndpointFilesError for one that a job's tag cannot hold."""
    names = [model.name, *model.aliases]
    for name in names:
        if _MODEL_NAME.fullmatch(name) is None:
            raise EndpointFilesError(
                f"The model's name {name!r} has characters that a job's tag cannot hold; use letters, digits and "
                "'._:/+@-', and give another spelling to Weft with 'weft endpoints create --model PUBLIC=SERVED'."
            )
    return names


def exports(site: Site, model: Model | None, settings: Settings, folder: str) -> dict[str, Pieces]:
    """The variables of the job, each with its value as shell text."""
    found: dict[str, Pieces] = {}
    if site.proxy is not None:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            found[name] = (shlex.quote(site.proxy.url),)
        for name in ("no_proxy", "NO_PROXY"):
            found[name] = (shlex.quote(",".join(site.proxy.bypass)),)
    for name, value in site.environment.variables.items():
        found[_name(name)] = (shlex.quote(value),)
    found["WEFT_SCHEDULER"] = (site.scheduler,)
    found["WEFT_LOG_DIR"] = (shell_path(site.log_folder),)
    if site.run_folder is not None:
        found["WEFT_RUN_DIR"] = (shell_path(site.run_folder),)
    if settings.purpose == "queue-status":
        return found
    found["WEFT_JOB"] = (given("weft_job"),)
    if site.scheduler != "local":
        found["WEFT_WALLTIME_S"] = (Expr("weft_walltime_s"),)
    if model is not None:
        found["WEFT_VLLM_COMMAND"] = (shlex.quote(shell_words(launch_words(site, model, folder))),)
    if settings.purpose == "worker" and model is not None:
        if site.worker_program is not None:
            found["WEFT_WORKER_PROGRAM"] = (shlex.quote(site.worker_program),)
        if site.worker_flags:
            found["WEFT_WORKER_FLAGS"] = (shlex.quote(shell_words(site.worker_flags)),)
    return found


def worker_init(site: Site, model: Model | None, settings: Settings, folder: str) -> Text:
    """The whole of it, a line of shell each."""
    lines: list[Pieces] = [(line,) for line in _activation(site.environment)]
    lines += [(f"export {name}=", *value) for name, value in exports(site, model, settings, folder).items()]
    return Text(tuple(piece for line in lines for piece in (*line, "\n")))


def launch_words(site: Site, model: Model, folder: str) -> list[str]:
    """The launch script with its flags. Raises EndpointFilesError if the model does not fit the site."""
    _check_fit(site, model)
    inner = site.vllm_environment
    words = [f"{folder}/{LAUNCH_SCRIPT}", "--port", "{port}", "--model", model.path or model.name]
    for name in model_names(model):
        words += ["--served-name", name]
    if model.nodes > 1:
        words += ["--nodes", str(model.nodes), "--gpus-per-node", str(site.gpus_per_node), "--reach", site.reach or ""]
    for flag, number in (
        ("--tensor-parallel", model.tensor_parallel),
        ("--pipeline-parallel", model.pipeline_parallel),
    ):
        if number > 1:
            words += [flag, str(number)]
    if site.interface is not None:
        words += ["--interface", site.interface]
    for flag, values in (("--module-path", inner.module_paths), ("--module", inner.modules), ("--setup", inner.setup)):
        for value in values:
            words += [flag, value]
    for flag, one in (("--conda", inner.conda), ("--venv", inner.venv)):
        if one is not None:
            words += [flag, one]
    for name, value in {**inner.variables, **model.variables}.items():
        words += ["--env", f"{_name(name)}={value}"]
    words += ["--attempts", str(model.attempts), "--start-timeout", str(model.start_timeout)]
    return [*words, "--", *_vllm_flags(model)]


def _vllm_flags(model: Model) -> list[str]:
    flags: list[str] = []
    if model.runner == "pooling":
        flags += ["--runner", "pooling"]
    if model.max_model_len is not None:
        flags += ["--max-model-len", str(model.max_model_len)]
    if model.gpu_memory_utilization is not None:
        flags += ["--gpu-memory-utilization", str(model.gpu_memory_utilization)]
    if model.tools is not None:
        flags += ["--enable-auto-tool-choice", "--tool-call-parser", model.tools.parser]
        if model.tools.chat_template is not None:
            flags += ["--chat-template", model.tools.chat_template]
    return [*flags, *model.flags]


def _check_fit(site: Site, model: Model) -> None:
    wanted, given_ = model.tensor_parallel * model.pipeline_parallel, model.nodes * site.gpus_per_node
    if wanted > given_ > 0:
        raise EndpointFilesError(
            f"{model.name} wants {model.tensor_parallel} x {model.pipeline_parallel} = {wanted} GPUs, and "
            f"{model.nodes} x {site.gpus_per_node} = {given_} are there (model.nodes x site.gpus_per_node); set "
            "model.nodes, model.tensor_parallel or model.pipeline_parallel, or site.gpus_per_node."
        )
    if model.nodes > 1 and site.reach not in _REACHES and "{node}" not in (site.reach or ""):
        raise EndpointFilesError(
            f"{model.name} takes {model.nodes} nodes, and the site does not say how a job reaches its other nodes; "
            "give --set site.reach=srun, mpiexec, ssh, or words with {node}."
        )


def _activation(environment: Environment) -> list[str]:
    lines = [f"module use {shlex.quote(path)}" for path in environment.module_paths]
    lines += [f"module load {shlex.quote(name)}" for name in environment.modules]
    if environment.conda is not None:
        lines += ['eval "$(conda shell.bash hook)"', f"conda activate {shlex.quote(environment.conda)}"]
    if environment.venv is not None:
        lines.append(f"source {shell_path(environment.venv.rstrip('/') + '/bin/activate')}")
    return [*lines, *environment.setup]


def _name(name: str) -> str:
    if _VARIABLE.fullmatch(name) is None:
        raise EndpointFilesError(f"{name!r} is no name of an environment variable; use letters, digits and '_'.")
    return name
