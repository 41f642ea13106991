"""One worker whose calls travel as tasks: attached to every router in its place."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec
from weft.session.v1 import frame_pb2

from services.core import weft_attributes
from services.core.catalogue import Catalogue, Endpoint
from services.core.deadlines import Bounds
from services.core.errors import ServiceError
from services.core.globus import GlobusBackend, GlobusFunction
from services.core.inference import Request
from services.core.tracing import AttributeValue, Tracer
from services.globus.errors import GlobusError, Kind
from services.launcher.bridge_calls import TaskInference, TaskSlots
from services.launcher.bridge_messages import to_payload
from services.launcher.bridge_status import Health, Statuses
from services.launcher.functions import Functions
from services.launcher.task_trace import TaskTrace
from services.launcher.task_workers import TaskWorker
from services.launcher.tasks import DEFAULT_CREDENTIALS, INFERENCE, TaskRunner
from services.rpc.attachment import Attachment, Credential, RefusedError
from services.rpc.limits import MuxLimits
from services.rpc.wire import RouterWay

log = logging.getLogger(__name__)

AGENT: Final = f"weft-tasks/{importlib.metadata.version('weft')}"

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_REPORT: Final = 5.0


class Enroller(Protocol):
    """Makes and revokes enrolment tokens. Raises `ServiceError`."""

    async def issue(self, start: str, endpoint: str, *, lifetime: float, serves: str) -> str:
        """A token for a start; a further one, if it has one already."""

    async def revoke(self, start: str) -> None:
        """Nobody is admitted for this start any more."""


@dataclass(frozen=True, slots=True)
class BridgeParts:
    """What all such workers share. `lifetime` of an enrolment and `grace` for open calls are in seconds."""

    tasks: TaskRunner
    functions: Functions
    statuses: Statuses
    enrolment: Enroller
    catalogue: Callable[[], Catalogue]
    routers: Sequence[str]
    lifetime: float
    grace: float
    way: RouterWay = field(default_factory=RouterWay)
    slots: TaskSlots = field(default_factory=TaskSlots)
    bounds: Bounds = field(default_factory=Bounds().inner)
    tracer: Tracer | None = None


class BridgeWorker:
    """Keeps one worker attached: one that the launcher started, or, with an empty start, an endpoint whose vLLM others
    look after. The `Owner` of its attachments.
    """

    def __init__(self, worker: TaskWorker, parts: BridgeParts) -> None:
        self.worker = worker
        self.inference = TaskInference(
            worker.endpoint, self._run_call, slots=parts.slots, bounds=parts.bounds, traced=self._traced
        )
        self._parts = parts
        self._health = Health(online=False, detail="its Globus Compute endpoint has not been asked yet")
        self._looked = False
        self._attachments: list[Attachment] = []
        self._start = ""
        self._leaving = False
        self._left = asyncio.Event()

    @property
    def started(self) -> bool:
        """Whether the launcher started it."""
        return bool(self.worker.start)

    async def run(self) -> None:
        """Attaches, and again after whatever goes wrong, until `leave` is called."""
        looking = asyncio.get_running_loop().create_task(self._look())
        leaving = asyncio.get_running_loop().create_task(self._left.wait())
        pause = _FIRST_PAUSE
        try:
            while not self._leaving:
                try:
                    await self._attached_until(leaving)
                    pause = _FIRST_PAUSE
                except ServiceError as error:
                    log.warning("'%s' is not attached for its tasks: %s", self.worker.endpoint, error)
                except Exception:  # a fault of ours: the endpoint is not to go without its calls for good
                    log.exception("'%s' is not attached for its tasks", self.worker.endpoint)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(random.uniform(pause / 2, pause)):
                        await asyncio.shield(leaving)
                pause = min(pause * 2, _LONGEST_PAUSE)
        finally:
            for task in (looking, leaving):
                task.cancel()
            await asyncio.gather(looking, leaving, return_exceptions=True)
            self.inference.close()

    async def leave(self) -> None:
        """Lets its open calls finish, within the grace, and leaves the routers."""
        self._leaving = True
        for attachment in self._attachments:
            attachment.drain(self._parts.grace)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._parts.grace):
                await asyncio.gather(*(attachment.settle() for attachment in self._attachments))
        self.inference.close()
        await asyncio.gather(*(attachment.leave() for attachment in self._attachments), return_exceptions=True)
        self._left.set()

    def send_report(self) -> None:
        """Tells the routers how it is."""
        for attachment in self._attachments:
            attachment.send_report()

    # Owner

    def attached(self, router: str) -> None:
        """See `Owner.attached`."""

    def stop(self, stop: frame_pb2.Stop) -> None:
        """See `Owner.stop`. The launcher, which asked for it, tells us itself to leave."""
        log.info("a router wishes that '%s' end: %s", self.worker.endpoint, stop.why)

    def refused(self, error: RefusedError) -> None:
        """See `Owner.refused`. When its session ends, it enrols anew."""

    # Attached

    async def _attached_until(self, leaving: asyncio.Task[Any]) -> None:
        """Raises `ServiceError` if it is not admitted."""
        parts, worker = self._parts, self.worker
        self._start = worker.start or f"task-{secrets.token_hex(8)}"
        token = await parts.enrolment.issue(self._start, worker.endpoint, lifetime=parts.lifetime, serves=worker.serves)
        self._attachments = [self._attachment(router, token) for router in parts.routers]
        tasks = [asyncio.get_running_loop().create_task(attachment.run()) for attachment in self._attachments]
        try:
            done, _ = await asyncio.wait((leaving, *tasks), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._attachments = []
            if not self.started:  # its own name, which nobody will show again
                with contextlib.suppress(ServiceError):
                    await parts.enrolment.revoke(self._start)

    def _attachment(self, router: str, token: str) -> Attachment:
        # The same instance at each attempt, also by another launcher: auth admits one for a start.
        return Attachment(
            router,
            endpoint=self.worker.endpoint,
            instance=f"tasks-{self._start}"[:64],
            credential=Credential(lambda: token, once=True),
            agent=AGENT,
            inference=self.inference,
            limits=MuxLimits(max_calls=4 * (self._parts.slots.tasks + self._parts.slots.waiting)),
            report=self._report,
            owner=self,
            way=self._parts.way,
        )

    def _report(self) -> frame_pb2.Report:
        """READY while tasks can be sent, with the models of the catalogue. Never DRAINING: that would tell the launcher
        that acts now, if we are no longer the one, that the start itself is to end.
        """
        parts, health = self._parts, self._health
        endpoint = parts.catalogue().endpoints.get(self.worker.endpoint)
        state, detail = frame_pb2.WORKER_STATE_READY, "calls travel as Globus tasks, one each"
        if not health.online:
            known = frame_pb2.WORKER_STATE_UNHEALTHY if self._looked else frame_pb2.WORKER_STATE_STARTING
            state, detail = known, f"no task can be sent: {health.detail}"
        report = frame_pb2.Report(state=state, detail=detail, max_calls=parts.slots.tasks)
        for name in dict.fromkeys(binding.served_model or binding.model for binding in _models(endpoint)):
            report.models.add(id=name)
        return report

    async def _look(self) -> None:
        """Keeps the report true, and the routers told."""
        while True:
            try:
                backend, at = self._target()
                self._health = await self._parts.statuses.health(_credentials(backend), at.endpoint_uuid)
            except GlobusError as error:
                self._health = Health(online=False, detail=error.sentence)
            self._looked = True
            self.send_report()
            await asyncio.sleep(_REPORT)

    # Calls

    def _traced(self, request: Request) -> TaskTrace | None:
        if self._parts.tracer is None:
            return None
        worker = self.worker
        facts: dict[str, AttributeValue] = {
            weft_attributes.ENDPOINT: worker.endpoint,
            weft_attributes.SLOT: worker.slot,
        }
        if worker.start:
            facts[weft_attributes.START] = worker.start
        return TaskTrace(self._parts.tracer, request, facts)

    async def _run_call(self, request: Request, *, timeout: float, wait: float, trace: TaskTrace | None) -> Any:
        parts, worker = self._parts, self.worker
        backend, at = self._target()
        credentials = _credentials(backend)
        function = await parts.functions.find(parts.catalogue(), INFERENCE, at, credentials)
        payload = to_payload(
            request if trace is None else trace.request(request),
            endpoint=worker.endpoint,
            slot=worker.slot,
            api_port=backend.api_port,
            timeout=timeout,
            wait=wait,
        )
        config = msgspec.json.decode(worker.config)  # the very node, by the configuration that it was started with
        if trace is None:
            return await parts.tasks.run(credentials, at.endpoint_uuid, function, payload, config)
        return await parts.tasks.run(
            credentials,
            at.endpoint_uuid,
            function,
            payload,
            config,
            submitted=trace.submitted,
            happened=trace.happened,
        )

    def _target(self) -> tuple[GlobusBackend, GlobusFunction]:
        """Where the calls go. Raises `GlobusError` if the catalogue says nowhere."""
        endpoint = self._parts.catalogue().endpoints.get(self.worker.endpoint)
        backend = endpoint.backend if endpoint is not None else None
        if isinstance(backend, GlobusBackend):
            if backend.inference is not None:
                return backend, backend.inference
            if backend.launch is not None:
                return backend, GlobusFunction(backend.launch.start_worker.endpoint_uuid)
        sentence = f"The catalogue names no Globus Compute endpoint for the calls of '{self.worker.endpoint}'."
        raise GlobusError(Kind.UNKNOWN_ENDPOINT, sentence, "Set 'inference' in its 'globus' backend.")


def _models(endpoint: Endpoint | None) -> Sequence[Any]:
    return endpoint.models if endpoint is not None else ()


def _credentials(backend: GlobusBackend) -> str:
    return backend.credentials or DEFAULT_CREDENTIALS
