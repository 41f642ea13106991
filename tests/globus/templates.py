"""Templates of user endpoints, for tests that concern the harness and not Weft's own (`weft endpoints render`)."""

from __future__ import annotations

import textwrap

LOCAL = """\
heartbeat_period: 5
idle_heartbeats_soft: 0
engine:
  type: GlobusComputeEngine
  address: 127.0.0.1
  max_workers_per_node: 4
  job_status_kwargs: {{strategy_period: 1}}
  provider:
    type: LocalProvider
    init_blocks: 1
    min_blocks: 0
    max_blocks: 1
    worker_init: |
{worker_init}
"""

SLURM = """\
heartbeat_period: 5
idle_heartbeats_soft: 0
engine:
  type: GlobusComputeEngine
  address: 127.0.0.1
  max_workers_per_node: 4
  job_status_kwargs: {{strategy_period: 1}}
  provider:
    type: SlurmProvider
    partition: {partition}
    init_blocks: 1
    min_blocks: 0
    max_blocks: 1
    walltime: "00:10:00"
    exclusive: false
    cores_per_node: 1
    worker_init: |
{worker_init}
    launcher:
      type: SimpleLauncher
"""


def local(worker_init: str) -> str:
    """User endpoints that run tasks on the agent's own machine."""
    return LOCAL.format(worker_init=textwrap.indent(worker_init, " " * 6))


def slurm(worker_init: str, partition: str) -> str:
    """User endpoints that run tasks in a job of Slurm."""
    return SLURM.format(worker_init=textwrap.indent(worker_init, " " * 6), partition=partition)
