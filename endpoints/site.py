"""A site: what is the same for every model that is served there. One YAML file each, in `endpoints/sites`."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Scheduler = Literal["pbs", "slurm", "local"]


class Choice(msgspec.Struct, frozen=True):
    """A text that a start may choose in its `user_endpoint_config`.

    Without `default` a start must give it. `allowed` empty means any word of letters, digits and `._-`.
    """

    default: str | None = None
    allowed: tuple[str, ...] = ()


class Walltime(msgspec.Struct, frozen=True):
    """How long a job may last, as HH:MM:SS; a start may choose any time up to `maximum`."""

    default: str = "06:00:00"
    maximum: str = "24:00:00"


class Environment(msgspec.Struct, frozen=True):
    """What makes programs found on a node: modules, then conda or venv, then shell lines of the site's own, in this
    order. `setup` is the administrator's shell, taken as it is.
    """

    module_paths: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    conda: str | None = None
    venv: str | None = None
    setup: tuple[str, ...] = ()
    variables: dict[str, str] = {}


class Proxy(msgspec.Struct, frozen=True):
    """The site's HTTP proxy for what leaves it, and the hosts that are reached without."""

    url: str
    bypass: tuple[str, ...] = ("localhost", "127.0.0.1")


class Address(msgspec.Struct, frozen=True):
    """Where jobs reach the user endpoint: a network interface of its machine, an address, or its host name."""

    interface: str | None = None
    ip: str | None = None


class Container(msgspec.Struct, frozen=True):
    """A container that tasks run in, with Weft and the agent's package in its image.

    `options` are words without blanks. For `custom` they are the whole command, with `{EXECUTOR_RUNDIR}`,
    `{EXECUTOR_LAUNCH_CMD}` and, where the runtime must be told which variables to pass, `{WEFT_ENV}` for them as
    `--env NAME` words.
    """

    type: Literal["apptainer", "singularity", "docker", "podman", "podman-hpc", "custom"]
    uri: str | None = None
    options: tuple[str, ...] = ()


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """A machine or cluster with its scheduler.

    `environment` has the agent's package and Weft; `vllm_environment`, where it is another, has vLLM, and only the
    launch script enters it. `scheduler_options` are directives without `#PBS` or `#SBATCH`; `provider` are further
    settings of parsl's provider, `engine` of the agent's engine. `reach` is how the launch script starts something on
    another node of its job: `srun`, `mpiexec`, `ssh`, or words with `{node}`. `interface` is the network interface
    between nodes, for Ray, NCCL and Gloo. `folder` is the machine's folder that endpoints are installed in, where
    compute nodes and, on a multi-user endpoint, all users can read it.
    """

    about: str
    scheduler: Scheduler
    gpus_per_node: int = 1
    account: Choice | None = None
    queue: Choice | None = None
    qos: Choice | None = None
    walltime: Walltime = Walltime()
    address: Address = Address(ip="127.0.0.1")
    scheduler_options: tuple[str, ...] = ()
    select_options: str = ""
    provider: dict[str, str | int | float | bool] = {}
    engine: dict[str, Any] = {}
    environment: Environment = Environment()
    vllm_environment: Environment = Environment()
    endpoint_environment: dict[str, str] = {}
    proxy: Proxy | None = None
    reach: str | None = None
    interface: str | None = None
    worker_program: str | None = None
    worker_flags: tuple[str, ...] = ()
    log_folder: str = "~/weft/logs"
    run_folder: str | None = None
    folder: str = "~/.globus_compute"
    container: Container | None = None
    amqp_port: int | None = 443
