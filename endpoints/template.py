"""`user_config_template.yaml.j2`: what the agent renders for each start, and so for each job."""

from __future__ import annotations

import math
import re

from endpoints.functions import Functions
from endpoints.job import exports, model_names, worker_init
from endpoints.mistakes import EndpointFilesError
from endpoints.model import Model
from endpoints.quoting import Expr, Raw, Text, Value, bare, emit, jinja_literal
from endpoints.settings import Settings
from endpoints.site import Container, Site
from endpoints.variables import choices, has_walltime, seconds

_PROVIDERS = {"pbs": "PBSProProvider", "slurm": "SlurmProvider", "local": "LocalProvider"}
_WORD = re.compile(r"[A-Za-z0-9@%+=:,./_{}~-]+")
"""What survives the agent, which splits and joins a container's command without its quotes."""


def user_config_template(
    site: Site, model: Model | None, settings: Settings, functions: Functions | None, folder: str
) -> str:
    """The whole file. Raises EndpointFilesError."""
    soft, hard = _idle(site, settings)
    config: dict[str, Value] = {
        "heartbeat_period": settings.heartbeat_period,
        "idle_heartbeats_soft": soft,
        "idle_heartbeats_hard": hard,
    }
    if (port := settings.amqp_port or site.amqp_port) is not None:
        config["amqp_port"] = port  # a user endpoint reads it here, and not in config.yaml
    if settings.debug:
        config["debug"] = True
    config["engine"] = _engine(site, model, settings, folder)
    return _head(site, model, settings) + emit(config).lstrip("\n") + "\n" + _user_functions(settings, functions)


def _head(site: Site, model: Model | None, settings: Settings) -> str:
    """The defaults of the variables, and the texts that are made of them. All are JSON texts, as the agent hands them
    over.
    """
    lines = ["{#- Written by `weft endpoints render`, which writes it anew: change its settings, not this file. -#}"]
    for name, choice in choices(site, settings).items():
        if choice.default is not None:
            lines.append(f"{{%- set {name} = {name} | default({jinja_literal(choice.default)}) %}}")
    if has_walltime(site, settings):
        lines += [
            f"{{%- set walltime = walltime | default({jinja_literal(site.walltime.default)}) %}}",
            "{%- set hms = walltime[1:-1].split(':') %}",
            "{%- set weft_walltime_s = hms[0] | int * 3600 + hms[1] | int * 60 + hms[2] | int %}",
        ]
    if settings.purpose != "queue-status":
        models = "|".join(model_names(model)) if model is not None else ""
        end = f";models={models}" + (";batch=1" if settings.purpose == "batch" else "")
        lines += [
            "{%- set weft_slot = weft_slot | int %}",
            f"{{%- set weft_job = '\"weft:endpoint=' ~ weft_endpoint[1:-1] ~ ';slot=' ~ weft_slot ~ '{end}\"' %}}",
            "{%- set weft_name = 'weft-' ~ weft_endpoint[1:-1].split('/')[-1] ~ '-' ~ weft_slot %}",
        ]
    return "\n".join(lines) + "\n"


def _idle(site: Site, settings: Settings) -> tuple[int, int]:
    """Idle heartbeats, soft and hard. The hard ones count although a task is out, so they outlast the longest wait in
    the queue and the longest job; 0 soft ones switch both off, where blocks are kept with nothing to do, or where a
    job has no end.
    """
    if settings.min_blocks > 0 or not has_walltime(site, settings):
        return 0, 0
    longest = seconds(site.walltime.maximum) + settings.queue_days * 86400
    soft = max(1, math.ceil(settings.idle_minutes * 60 / settings.heartbeat_period))
    return soft, math.ceil(longest / settings.heartbeat_period) + soft


def _engine(site: Site, model: Model | None, settings: Settings, folder: str) -> dict[str, Value]:
    engine: dict[str, Value] = {"type": "GlobusComputeEngine", "address": _address(site, settings), "encrypted": True}
    engine["max_workers_per_node"] = 1 + settings.task_slots
    # Those who wait for vLLM need no core of their own; by default the agent gives each one.
    engine["cores_per_worker"] = 0.001
    engine["max_retries_on_system_failure"] = 0
    # By default a job that was cancelled is given tasks for two minutes more, the next start among them.
    engine["heartbeat_period"], engine["heartbeat_threshold"] = 10, 45
    engine["job_status_kwargs"] = {"max_idletime": 60.0, "strategy_period": 5.0}
    if settings.serializers:
        engine["allowed_serializers"] = list(settings.serializers)
    if site.container is not None and settings.purpose != "queue-status":
        engine.update(_container(site.container, list(exports(site, model, settings, folder)), folder))
    engine.update(site.engine)
    engine["provider"] = _provider(site, model, settings, folder)
    return engine


def _address(site: Site, settings: Settings) -> Value:
    if settings.purpose == "queue-status" or site.scheduler == "local":
        return "127.0.0.1"
    if site.address.interface is not None:
        return {"type": "address_by_interface", "ifname": site.address.interface}
    return site.address.ip or {"type": "address_by_hostname"}


def _provider(site: Site, model: Model | None, settings: Settings, folder: str) -> dict[str, Value]:
    nodes = model.nodes if model is not None else 1
    scheduler = "local" if settings.purpose == "queue-status" else site.scheduler
    provider: dict[str, Value] = {
        "type": _PROVIDERS[scheduler],
        "init_blocks": settings.init_blocks,
        "min_blocks": settings.min_blocks,
        "max_blocks": settings.max_blocks,
        "nodes_per_block": nodes,
    }
    if scheduler != "local":
        for name in choices(site, settings):
            provider[name] = Raw(f"{name} | shell_escape")
        provider["walltime"] = Raw("walltime")
        if site.select_options:
            provider["select_options"] = site.select_options
        provider.update(site.provider)
        provider["scheduler_options"] = _directives(site, scheduler)
    # One manager, on the first node: the launch script starts the rest.
    provider["launcher"] = {"type": "SimpleLauncher"}
    provider["worker_init"] = worker_init(site, model, settings, folder)
    return provider


def _directives(site: Site, scheduler: str) -> Text:
    """What goes before the job's script: later lines outdo parsl's own, such as the name."""
    sign = {"pbs": "#PBS", "slurm": "#SBATCH"}[scheduler]
    if any("\n" in option for option in site.scheduler_options):
        raise EndpointFilesError(
            "site.scheduler_options is a list with one directive each: none may have a line break."
        )
    text: list[str | Expr] = [f"{sign} {option}\n" for option in site.scheduler_options]
    name, tag = ("-N ", "-v WEFT_JOB=") if scheduler == "pbs" else ("--job-name=", "--comment=")
    text += [f"{sign} {name}", Expr("weft_name"), f"\n{sign} {tag}", bare("weft_job"), "\n"]
    return Text(tuple(text))


def _container(container: Container, variables: list[str], folder: str) -> dict[str, Value]:
    for word in (*container.options, folder, container.uri or ""):
        if word and _WORD.fullmatch(word) is None:
            raise EndpointFilesError(
                f"site.container: {word!r} has blanks, quotes or other characters of the shell, which the agent loses; "
                "give each word of the options as an item of its own."
            )
    passed = [word for name in variables for word in ("--env", name)]
    if container.type == "custom":
        command = " ".join(container.options)
        for needed in ("{EXECUTOR_RUNDIR}", "{EXECUTOR_LAUNCH_CMD}"):
            if needed not in command:
                raise EndpointFilesError(f"site.container.options must contain {needed} for a custom container.")
        return {"container_type": "custom", "container_cmd_options": command.replace("{WEFT_ENV}", " ".join(passed))}
    if container.uri is None:
        raise EndpointFilesError(f"site.container.uri must name the image for {container.type}.")
    if container.type in ("apptainer", "singularity"):  # these pass the environment by themselves
        words = ["--nv", "--bind", f"{folder}:{folder}:ro", *container.options]
    else:
        words = ["--rm", "--network", "host", "--volume", f"{folder}:{folder}:ro", *passed, *container.options]
    return {
        "container_type": container.type,
        "container_uri": container.uri,
        "container_cmd_options": " ".join(words),
    }


def _user_functions(settings: Settings, functions: Functions | None) -> str:
    """The functions of each group of local users; for nobody else any."""
    if not settings.function_users:
        return ""
    if functions is None:
        raise EndpointFilesError("function_users needs the functions' UUIDs: give --functions functions.yaml.")
    lines, word = ["allowed_functions:"], "if"
    everybody: tuple[str, ...] = ()
    for group in settings.function_users:
        if "*" in group.users:
            everybody = group.functions
            continue
        names = ", ".join(f"'{_local_user(user)}'" for user in group.users)
        lines.append(f"{{%- {word} _GC.mapped_identity.local.uname in ({names},) %}}")
        lines += _listed(functions, group.functions, settings)
        word = "elif"
    rest = _listed(functions, everybody, settings) if everybody else ["  []"]
    lines += ["{%- else %}", *rest, "{%- endif %}"] if word == "elif" else rest
    return "\n".join(lines) + "\n"


def _listed(functions: Functions, names: tuple[str, ...], settings: Settings) -> list[str]:
    return [f'  - "{uuid}" # {name}' for uuid, name in functions.uuids(names, settings.endpoint_uuid)]


def _local_user(name: str) -> str:
    if re.fullmatch(r"[a-z_][a-z0-9_.-]{0,31}", name) is None:
        raise EndpointFilesError(f"function_users: {name!r} is no name of a local user.")
    return name
