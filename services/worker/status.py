"""What a worker tells its routers of itself: how vLLM is, what it is doing while it starts, and the job around it."""

from __future__ import annotations

import os
import pwd
import socket

from weft.session.v1 import frame_pb2

from services.worker.config import WorkerConfig


class Status:
    """Joins what the probe finds with what the worker knows by itself."""

    def __init__(self, config: WorkerConfig) -> None:
        self._job = _job(config)
        self._draining = ""

    def drain(self, why: str) -> None:
        """From now on the worker takes no more calls."""
        self._draining = why

    def report(self, probed: frame_pb2.Report) -> frame_pb2.Report:
        """The report to send."""
        report = frame_pb2.Report()
        report.CopyFrom(probed)
        if self._draining:
            report.state = frame_pb2.WORKER_STATE_DRAINING
            report.detail = f"draining: {self._draining}"
        if self._job is not None:
            report.job.CopyFrom(self._job)
        return report


def _job(config: WorkerConfig) -> frame_pb2.Job | None:
    """The scheduler's job; None if the worker was told of none."""
    if not config.job_id and config.job_end is None:
        return None
    job = frame_pb2.Job(id=config.job_id, host=socket.gethostname(), account=_account())
    if config.job_end is not None:
        job.end_time.FromMilliseconds(int(config.job_end * 1000))
    return job


def _account() -> str:
    """The local account. Not from the environment, where a user can write what he likes."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a user id without a name, as in containers
        return str(os.getuid())
