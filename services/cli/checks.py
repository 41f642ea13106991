"""What `weft doctor` looks at, in the order in which one part needs another."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing, closing

from services.cli.check import Check
from services.cli.completions import open_completions
from services.cli.connection import Service, address_of, facade_url, read_key, wire_of
from services.cli.failures import CommandError
from services.cli.overview import Overview, look
from services.cli.ports import is_free
from services.cli.settings import load
from services.core.errors import ServiceError
from services.rpc.server import check_health
from services.runtime.config import Config, ConfigError
from services.runtime.home import log_file
from services.runtime.telemetry.config import TracingConfig

HEALTH_TIMEOUT = 3.0


async def examine() -> AsyncIterator[Check]:
    """Looks at one part after the other, and ends after the first that the others cannot do without."""
    try:
        config = load()
    except ConfigError as error:
        yield Check("configuration", str(error), "correct it, then run 'weft config check'")
        return
    yield Check("configuration", str(config.file or "none; all is by default"))
    yield (home := _home(config))
    if not home.good:
        return
    if config.section("tracing", TracingConfig).endpoint:
        yield await asyncio.to_thread(_collector, config)
    services: tuple[Service, ...] = ("auth", "registry", "router")
    well = True
    for service in services:
        yield (check := await _service(config, service))
        well = well and check.good
    if well:
        async for check in _use(config):
            yield check


def _home(config: Config) -> Check:
    try:
        config.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=config.home):
            pass
    except OSError as error:
        remedy = f"make it a folder that {os.environ.get('USER', 'you')} may write to, or set WEFT_HOME to another"
        return Check("home", f"{config.home}: {error.strerror}", remedy)
    return Check("home", f"{config.home} is writable")


def _collector(config: Config) -> Check:
    """Sends the collector nothing, by the way that spans take."""
    from services.runtime.telemetry.batcher import ExportError
    from services.runtime.telemetry.collector import Collector  # the SDK, which most meshes never need

    tracing = config.section("tracing", TracingConfig)
    try:
        with closing(Collector(tracing, config.home)) as collector:
            collector.export([])
    except ServiceError as error:
        return Check("collector", str(error), "correct the section 'tracing' of weft.yaml")
    except ExportError as error:
        return Check("collector", error.why, error.remedy)
    return Check("collector", f"{tracing.endpoint} takes spans")


async def _service(config: Config, service: Service) -> Check:
    address = address_of(config, service)
    try:
        wire = wire_of(config, service)
    except ServiceError as error:
        return Check(service, str(error), "run 'weft certs create'")
    async with wire.dial(address, service) as channel:
        if await check_health(channel, "", timeout=HEALTH_TIMEOUT):
            return Check(service, f"ready at {address}")
    host, _, port = address.rpartition(":")
    if is_free(host, int(port)):
        return Check(service, f"nothing listens at {address}", f"run 'weft up', or 'weft serve {service}'")
    remedy = f"see its log, {log_file(config.home, service)}; if it is another program, set '{service}.address'"
    return Check(service, f"what listens at {address} is not ready", remedy)


async def _use(config: Config) -> AsyncIterator[Check]:
    """What needs the services: a key, a worker, an answer."""
    try:
        key = read_key(config)
    except CommandError as error:
        yield Check("key", str(error), "have one, as it says")
        return
    overview = await look(config)
    if others := [sentence for sentence in overview.unreachable if sentence != overview.no_launcher]:
        yield Check("key", others[0], "use an administrator's key: set WEFT_API_KEY")
        return
    yield Check("key", "accepted by registry and router")
    startable = [endpoint.name for endpoint in overview.endpoints if endpoint.backend == "globus"]
    if startable and overview.no_launcher:
        remedy = "run 'weft up --launcher', or 'weft serve launcher'"
        yield Check("launcher", f"{overview.no_launcher} No worker is started at {', '.join(startable)}.", remedy)
    elif startable:
        yield Check("launcher", f"answers; 'weft doctor --endpoint {startable[0]}' looks at what it starts there")
    workers = [worker for endpoint in overview.endpoints for worker in endpoint.workers]
    ready = [worker for worker in workers if worker.state == "ready"]
    if ready:
        yield Check("workers", f"{len(ready)} of {len(workers)} ready; models: {', '.join(overview.models) or 'none'}")
    elif workers:
        yield Check("workers", workers[0].detail or workers[0].state, "see that its vLLM runs")
    elif startable:
        yield Check("workers", f"none is attached; a call starts one at {', '.join(startable)}")
    else:
        yield Check("workers", "none is attached", "run 'weft worker --vllm-url URL'")
    async for check in _answers(facade_url(config), key, _warm(overview) if startable else None):
        yield check


def _warm(overview: Overview) -> set[str]:
    """The models that answer without a worker being started, as far as their names tell."""
    found: set[str] = set()
    for endpoint in overview.endpoints:
        ready = [worker for worker in endpoint.workers if worker.state == "ready"]
        if ready or endpoint.backend == "http":
            found.update(endpoint.models or (model for worker in ready for model in worker.models))
    return found


async def _answers(url: str, key: str, warm: set[str] | None) -> AsyncIterator[Check]:
    """Asks one model; of those in `warm`, if that is given: a look must start no job."""
    try:
        async with open_completions(url, key) as completions:
            models = await completions.models()
            yield Check("facade", f"{url}/v1 lists {len(models)} models")
            if not models:
                yield Check("answer", "there is no model to ask", "attach a worker, or allow the key a model")
                return
            asked = next((model for model in models if warm is None or model in warm), None)
            if asked is None:
                yield Check("answer", "nobody is asked, because that would start a worker")
                return
            async with aclosing(completions.ask(asked, [{"role": "user", "content": "Hello"}])) as pieces:
                first = [piece async for piece in pieces]
            yield Check("answer", f"{asked} answered in {len(first)} pieces")
    except CommandError as error:
        yield Check("facade", str(error), "see 'weft status', and the facade's log")
