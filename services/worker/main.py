"""The worker, put together: vLLM (launched or attached), the probe that watches it, a session to each router."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import secrets
import time
from collections.abc import Coroutine
from typing import Any, Final

from weft.session.v1 import frame_pb2

from services.core.errors import Reason, ServiceError
from services.core.tracing import Tracer
from services.rpc.attachment import Attachment, RefusedError
from services.rpc.limits import MuxLimits
from services.upstream.http import HttpInference, open_session
from services.worker.config import WorkerConfig
from services.worker.credential import credential_of
from services.worker.ending import Ending, Exit, WorkerFailedError, calls_until, refused
from services.worker.launch import Launcher
from services.worker.otlp import PLACEHOLDER, OtlpReceiver, environment
from services.worker.probe import Probe
from services.worker.span_relay import SpanRelay
from services.worker.start_span import StartSpan
from services.worker.status import Status
from services.worker.traced import FOLLOWS, TracedInference

log = logging.getLogger(__name__)

AGENT: Final = f"weft-worker/{importlib.metadata.version('weft')}"

_FAREWELL: Final = 1.0
"""Seconds that the errors of calls that were cut may take to their callers."""


async def serve(config: WorkerConfig, stopping: asyncio.Event) -> None:
    """Runs a worker until `stopping`, a router's wish, or its job's end; its open calls finish.

    Raises `ServiceError`, `OSError` or `WorkerFailedError` if it cannot begin or go on, with a sentence that says why.
    """
    config.way.check()
    worker = Worker(config, stopping)
    try:
        await worker.run()
    finally:
        await worker.close()


class Worker:
    """One worker: its parts, and what becomes of them. The `Owner` of its attachments."""

    def __init__(self, config: WorkerConfig, stopping: asyncio.Event) -> None:
        credential, instance = credential_of(config), secrets.token_hex(8)
        self._config = config
        self._stopping = stopping
        self._loop = asyncio.get_running_loop()
        self._ending: asyncio.Future[Ending] = self._loop.create_future()
        self._attached_once = asyncio.Event()
        self._status = Status(config)
        http = open_session(config.vllm_url)
        self._vllm = HttpInference(http, config.vllm_url, what="vLLM", bounds=config.bounds)
        self._attachments: list[Attachment] = []
        self._spans = SpanRelay(self._attachments)
        self._otlp = OtlpReceiver(config.otlp_address, self._spans.take_otlp) if config.otlp_address else None
        self._launcher = self._make_launcher() if config.vllm_command else None
        self._probe = Probe(
            http,
            config.vllm_url,
            interval=config.report_interval,
            max_calls=config.max_calls,
            changed=self._tell_routers,
            gone=self._vllm.end_calls,
            progress=self._launcher.progress if self._launcher is not None else None,
        )
        tracer = Tracer(self._spans, FOLLOWS)
        inference = TracedInference(self._vllm, tracer, self._spans)
        self._beginning = StartSpan(tracer, os.environ, job=config.job_id)
        self._attachments += [
            Attachment(
                router,
                endpoint=config.endpoint,
                instance=instance,
                credential=credential,
                agent=AGENT,
                inference=inference,
                limits=MuxLimits(max_calls=config.max_calls),
                report=lambda: self._status.report(self._probe.report),
                owner=self,
                way=config.way,
            )
            for router in config.routers
        ]

    def _make_launcher(self) -> Launcher:
        config, url = self._config, self._otlp.url if self._otlp is not None else ""
        return Launcher(
            tuple(word.replace(PLACEHOLDER, url) for word in config.vllm_command),
            config.vllm_log,
            grace=config.grace,
            restarts=config.vllm_restarts,
            environment=environment(os.environ) if url else {},
        )

    async def run(self) -> None:
        """See `serve`."""
        if self._otlp is not None:
            await self._otlp.start()
            log.info("taking vLLM's spans at %s", self._otlp.url)
        work: list[Coroutine[Any, Any, object]] = [self._probe.run(), self._watch()]
        work += [attachment.run() for attachment in self._attachments]
        if self._launcher is not None:
            work.append(self._launcher.run())
        tasks = [self._loop.create_task(part) for part in work]
        ends: list[asyncio.Future[Any]] = [self._ending, *tasks]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await self._drain(self._ending.result() if self._ending.done() else self._failure(tasks))
        except Exception as error:
            self._beginning.over(error)
            await self._send_last_spans()
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Lets go of vLLM."""
        self._spans.close()
        if self._otlp is not None:
            await self._otlp.stop()
        await self._vllm.close()

    # Why it ends

    def attached(self, router: str) -> None:
        """See `Owner.attached`."""
        self._attached_once.set()
        self._beginning.attached()
        self._spans.wake()

    def stop(self, stop: frame_pb2.Stop) -> None:
        """See `Owner.stop`."""
        grace = stop.grace_ms / 1000 or self._config.grace
        self._end(Ending(f"the router wishes it: {stop.why}" if stop.why else "the router wishes it", grace))

    def refused(self, error: RefusedError) -> None:
        """See `Owner.refused`."""
        self._end(refused(error, self._config.grace))

    def _end(self, ending: Ending) -> None:
        if not self._ending.done():
            self._ending.set_result(ending)

    async def _watch(self) -> None:
        """Ends the worker at a signal, at its job's end, or if no router takes it."""
        config = self._config
        async with asyncio.TaskGroup() as group:
            group.create_task(self._end_at_signal())
            if config.job_end is not None:
                group.create_task(self._end_with_job(config.job_end))
            if config.attach_timeout is not None:
                group.create_task(self._end_unless_attached(config.attach_timeout))
            await asyncio.Event().wait()

    async def _end_at_signal(self) -> None:
        await self._stopping.wait()
        self._end(Ending("it was told to stop", self._config.grace))

    async def _end_with_job(self, job_end: float) -> None:
        await asyncio.sleep(max(0.0, job_end - self._config.drain_before - time.time()))
        grace = max(0.0, calls_until(job_end, self._config.drain_before) - time.time())
        self._end(Ending("its job ends soon", grace))

    async def _end_unless_attached(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._attached_once.wait()
        except TimeoutError:
            whys = {str(attachment.trouble) for attachment in self._attachments if attachment.trouble is not None}
            why = " ".join(sorted(whys)) or "No router has answered."
            message = f"No router took this worker within {seconds:g} s. {why}"
            self._end(Ending("no router takes it", 0.0, WorkerFailedError(Exit.UNREACHABLE, message)))

    def _failure(self, tasks: list[asyncio.Task[object]]) -> Ending:
        """Parts run until cancelled; one that ended has failed. Raises why, if there is nothing to be saved."""
        error = next(task.exception() for task in tasks if task.done())
        if isinstance(error, RefusedError):
            return refused(error, self._config.grace)  # Another router may have calls open here.
        assert error is not None
        raise error

    # How it ends

    def _tell_routers(self, report: frame_pb2.Report) -> None:
        if report.state == frame_pb2.WORKER_STATE_READY:
            self._beginning.ready()
            if self._launcher is not None:
                self._launcher.serves()
        for attachment in self._attachments:
            attachment.send_report()

    async def _drain(self, ending: Ending) -> None:
        """Lets the open calls finish, then leaves the routers."""
        log.info("draining (%s): no new calls; open ones have %.0f s", ending.why, ending.grace)
        self._status.drain(ending.why)
        self._beginning.over(ending.failure)
        for attachment in self._attachments:
            attachment.send_report()
            attachment.drain(ending.grace)
        if not await self._settle(ending.grace) and self._vllm.open_calls:
            log.warning("%d calls are still open, and are cut", self._vllm.open_calls)
            # So that their callers hear why, and need not wait until the lost connection is noticed.
            self._vllm.end_calls(ServiceError(Reason.SHUTTING_DOWN, f"The worker had to end: {ending.why}."))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    await self._settled()
        await self._send_last_spans()
        await asyncio.gather(*(attachment.leave() for attachment in self._attachments))
        if ending.failure is not None:
            raise ending.failure

    async def _send_last_spans(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                while self._spans.flush():
                    await self._settled()

    async def _settle(self, grace: float) -> bool:
        """Whether the open calls finish within `grace`. A signal in the meantime, as a scheduler sends before it kills,
        leaves them the grace of a signal.
        """
        deadline = self._loop.time() + grace
        settled = self._loop.create_task(self._settled())
        signalled = self._loop.create_task(self._stopping.wait())
        try:
            await asyncio.wait((settled, signalled), timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            left = max(0.0, deadline - self._loop.time())
            await asyncio.wait((settled,), timeout=min(left, self._config.grace))
            return settled.done()
        finally:
            settled.cancel()
            signalled.cancel()

    async def _settled(self) -> None:
        await asyncio.gather(*(attachment.settle() for attachment in self._attachments))
