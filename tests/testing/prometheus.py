"""A real Prometheus that scrapes a mesh every second, by the scrape configuration that Weft ships for many machines."""

import asyncio
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.testing.processes import SOON, HeldPort

DEPLOYED = Path(__file__).parents[2] / "deploy" / "prometheus"
POLL = 0.1


class Prometheus:
    """A server with its data in a folder of its own. `targets` are addresses by the name of the job."""

    def __init__(self, folder: Path, targets: Mapping[str, str]) -> None:
        self._folder = folder
        self._port = HeldPort()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._port.port}"
        self.targets = dict(targets)
        config = yaml.safe_load((DEPLOYED / "machines.yml").read_text())
        del config["alerting"]  # to a machine that there is not
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        jobs = {job["job_name"]: job for job in config["scrape_configs"]}
        assert jobs.keys() == self.targets.keys()
        for name, job in jobs.items():
            job["static_configs"] = [{"targets": [self.targets[name]]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        shutil.copy(DEPLOYED / "alerts.yml", folder)

    async def start(self) -> None:
        """Starts it, and returns when it is ready."""
        process = self._process = await asyncio.to_thread(self._launch)
        async with asyncio.timeout(SOON):
            while not await asyncio.to_thread(self._is_ready):
                assert process.poll() is None, (self._folder / "log").read_text()
                await asyncio.sleep(POLL)

    def _launch(self) -> subprocess.Popen[bytes]:
        flags = {
            "config.file": self._folder / "prometheus.yml",
            "storage.tsdb.path": self._folder / "data",
            "web.listen-address": f"127.0.0.1:{self._port.port}",
            "log.level": "warn",
        }
        command = ["prometheus", *(f"--{name}={value}" for name, value in flags.items())]
        with (self._folder / "log").open("wb") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder)

    def stop(self) -> None:
        """Ends it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(SOON)
            self._process = None
        self._port.close()

    async def scraped(self, jobs: Iterable[str] | None = None) -> None:
        """Returns when every job has been scraped, whole, since this was called."""
        since, wanted = time.time(), set(jobs or self.targets)
        until = time.monotonic() + SOON
        missing = wanted
        while missing:
            assert time.monotonic() < until, f"not scraped within {SOON:g} s: {', '.join(sorted(missing))}"
            await asyncio.sleep(POLL)
            up = await asyncio.to_thread(self.query, "timestamp(up) * (up == 1)")
            missing = wanted - {row["metric"]["job"] for row in up if float(row["value"][1]) > since}

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """The rows of an instant query, each with `metric` and `value`; at a time in seconds since 1970, else now."""
        when = {} if at is None else {"time": str(at)}
        rows: list[dict[str, Any]] = self.ask("query", query=expression, **when)["result"]
        return rows

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its HTTP API: https://prometheus.io/docs/prometheus/latest/querying/api/"""
        body = urllib.parse.urlencode(parameters).encode() or None
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}", body, SOON) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {json.load(error).get('error')}") from error

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
