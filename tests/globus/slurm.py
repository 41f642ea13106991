"""A real Slurm of one node: munge, slurmctld and slurmd, on own ports and in a folder of its own. Only root can run it.

The node pretends to have `CPUS` processors and `GPUS` GPUs, so that several jobs run at once.
"""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
from typing import Any

from tests.globus.run import Run
from tests.testing.processes import HeldPort, Part
from tests.vllm.processes import Deadline

CPUS = 16
GPUS = 8
PARTITION = "gpu"
KILL_WAIT = 5
"""Seconds between SIGTERM and SIGKILL at the end of a job's time."""

CONFIGURATION = """\
ClusterName=weft
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
InactiveLimit=0
KillWait={kill_wait}
MinJobAge=300
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName={partition} Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """The cluster. `environ` makes any of Slurm's commands speak to it."""

    def __init__(self, run: Run) -> None:
        self._folder = run.folder / "slurm"
        for name in ("state", "spool"):
            (self._folder / name).mkdir(parents=True)
        self._ports = HeldPort(), HeldPort()
        self._write()
        configuration = str(self._folder / "slurm.conf")
        self.environ = {"SLURM_CONF": configuration}
        munge = ["/usr/sbin/munged", "--foreground", "--key-file", str(self._folder / "key")]
        for name in ("socket", "pid", "seed"):
            option = {"socket": "--socket", "pid": "--pid-file", "seed": "--seed-file"}[name]
            munge += [option, str(self._folder / f"munge.{name}")]
        self._munge = run.part("munge", munge)
        self.controller: Part = run.part("slurmctld", ["/usr/sbin/slurmctld", "-D", "-f", configuration])
        self.node: Part = run.part("slurmd", ["/usr/sbin/slurmd", "-D", "-f", configuration])

    def start(self) -> None:
        """Starts it, and returns when its node is idle."""
        self._munge.launch()
        for _ in Deadline(60, "munge listens"):
            if (self._folder / "munge.socket").exists():
                break
        self.controller.launch()
        self.node.launch()
        idle = Deadline(60, "the node is idle")
        for _ in idle:
            states = self._run("sinfo", "--noheader", "--format", "%T", check=False).split()
            if states == ["idle"]:
                break
            idle.awaited = f"the node is idle, and not {states}\n{self.controller.log}\n{self.node.log}"

    def jobs(self, name: str = "") -> list[dict[str, Any]]:
        """The jobs that wait or run, as `squeue --json` tells them; those of one name, as others' tests may leave idle
        ones behind for a minute.
        """
        told: list[dict[str, Any]] = json.loads(self._run("squeue", "--json"))["jobs"]
        there = [job for job in told if job["job_state"] in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")]
        return [job for job in there if name in ("", job["name"])]

    def until_running(self, job: int) -> None:
        """Waits until a job runs."""
        for _ in Deadline(60, f"job {job} runs"):
            if any(each["job_id"] == job and each["job_state"] == "RUNNING" for each in self.jobs()):
                return

    def cancel(self, job: int) -> None:
        """Ends a job, as its owner or an administrator does."""
        self._run("scancel", str(job))

    def clear(self) -> None:
        """Ends all jobs, also those that are submitted meanwhile, and returns when the node is idle again."""
        told: set[int] = set()
        for _ in Deadline(60, "no job is left"):
            jobs = {int(job["job_id"]) for job in self.jobs()}
            if not jobs:
                break
            for job in jobs - told:
                self._run("scancel", str(job), check=False)
            told |= jobs

    def hold(self) -> None:
        """Lets no job start any more: those that are submitted wait in the queue."""
        self._run("scontrol", "update", f"partitionname={PARTITION}", "state=down")

    def release(self) -> None:
        """Lets jobs start again."""
        self._run("scontrol", "update", f"partitionname={PARTITION}", "state=up")

    def _run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(command, env=self._environ(), capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
        return done.stdout

    def _environ(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", **self.environ}

    def _write(self) -> None:
        key = self._folder / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        controller, node = (port.port for port in self._ports)
        text = CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            folder=self._folder,
            controller_port=controller,
            node_port=node,
            kill_wait=KILL_WAIT,
            cpus=CPUS,
            gpus=GPUS,
            partition=PARTITION,
        )
        (self._folder / "slurm.conf").write_text(text)
        for number in range(GPUS):
            (self._folder / f"gpu{number}").touch()
        (self._folder / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={self._folder}/gpu[0-{GPUS - 1}]\n")
