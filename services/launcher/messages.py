"""What the launcher tells, as `weft.launcher.v1`."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from weft.launcher.v1 import launcher_pb2

from services.launcher.queues import Job, Queue
from services.launcher.starts import Start, StartState
from services.launcher.states import EndpointState


def to_start(start: Start) -> launcher_pb2.Start:
    """A start."""
    return launcher_pb2.Start(
        name=start.name,
        endpoint=start.endpoint,
        slot=start.slot,
        state=_state(start.state),
        detail=start.detail,
        job=start.job,
        queue_position=start.queue_position,
        expected_start_time=_time(start.expected_start),
        job_end_time=_time(start.job_end),
        instance=start.instance,
        create_time=_time(start.created_at),
        submit_time=_time(start.submitted_at),
        attach_time=_time(start.attached_at),
        ready_time=_time(start.ready_at),
        end_time=_time(start.ended_at),
    )


def to_endpoint_state(state: EndpointState) -> launcher_pb2.EndpointState:
    """An endpoint that workers are started for."""
    return launcher_pb2.EndpointState(
        endpoint=state.endpoint,
        state=_state(state.state),
        detail=state.detail,
        retry_after_s=state.retry_after,
        tasks=state.tasks,
        failed=state.failed,
    )


def to_queue(queue: Queue) -> launcher_pb2.GetQueueResponse:
    """A queue."""
    return launcher_pb2.GetQueueResponse(
        query_time=_time(queue.asked_at),
        jobs=map(_job, queue.jobs),
        free_nodes=queue.free_nodes,
        total_nodes=queue.total_nodes,
    )


def _job(job: Job) -> launcher_pb2.QueuedJob:
    return launcher_pb2.QueuedJob(
        id=job.id,
        state=job.state,
        scheduler_state=job.scheduler_state,
        models=job.models,
        framework=job.framework,
        endpoint=job.endpoint,
        slot=job.slot,
        hosts=job.hosts,
        comment=job.comment,
        nodes=job.nodes,
        walltime=job.walltime,
        expected_start=job.expected_start,
        position=job.position,
        batch=job.batch,
    )


def _state(state: StartState | None) -> launcher_pb2.StartState.ValueType:
    return launcher_pb2.START_STATE_UNSPECIFIED if state is None else launcher_pb2.StartState.ValueType(state.value)


def _time(seconds: float | None) -> Timestamp | None:
    if seconds is None:
        return None
    time = Timestamp()
    time.FromMilliseconds(round(seconds * 1000))
    return time
