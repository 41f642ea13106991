"""The dashboard and the alerts, against a real Prometheus that has scraped a mesh in which everything happened."""

import asyncio
import json
import math
import re
import runpy
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.duration_pb2 import Duration

from tests.integration.test_isolation import Sluggish
from tests.integration.test_launcher import ENDPOINT, QUICK, Site, node_environ
from tests.testing.calls import WHOLE, Call
from tests.testing.certificates import Authority
from tests.testing.fake_globus import FakeGlobus
from tests.testing.mesh import Mesh, MeshOptions, hold, let_go
from tests.testing.parts import need_part, requires_part
from tests.testing.prometheus import Prometheus
from tests.testing.redis import RedisServer
from tests.testing.simulator import Simulator

pytestmark = [requires_part("prometheus"), requires_part("redis")]

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "weft.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
DOCUMENT = ROOT / "docs" / "observability.md"
VARIABLES = {"$route": ".*", "$endpoint": ".*", "$__rate_interval": "2m"}
LONG = 100_000
QUICKLY = ("--max-model-len", "1000000", "--inter-token-s", "0.0002")
STALLS = "weft_router_credit_stalls_total"
WAITING = "weft_router_waiting_calls"

OURS = re.compile(r"\b(?:weft|gen_ai)_[a-z0-9_]+\b")
SUFFIX = re.compile(r"_(?:bucket|sum|count|total)$")


@dataclass
class Scene:
    """What happened, seen by Prometheus until `at`."""

    prometheus: Prometheus
    at: float

    def rows(self, expression: str) -> list[dict[str, Any]]:
        """The rows that are numbers: of nothing at all, a quantile is none."""
        rows = self.prometheus.query(expression, self.at)
        return [row for row in rows if not math.isnan(float(row["value"][1]))]


@pytest.fixture(scope="module")
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    need_part("prometheus", request.config)
    need_part("redis", request.config)
    folder = tmp_path_factory.mktemp("scene")
    redis = RedisServer(tmp_path_factory.mktemp("redis"))
    certificate, key = Authority(folder).issue("localhost")
    mesh = hold(
        tmp_path_factory.mktemp("weft"),
        MeshOptions(
            workers=0,
            auth={"quotas": [{"subject": "users/limited", "requests_per_second": 1}]},
            router={
                "limits": {"store_url": redis.url},
                "tls_address": "127.0.0.1:0",
                "tls_certificate_file": str(certificate),
                "tls_key_file": str(key),
            },
            facade={"call_window_bytes": 64 * 1024},
            launcher={**QUICK, "worker_grace_s": 5.0, "attach_timeout_s": 10.0},
            tracing={"local": True, "ratio": 1.0},
        ),
    )
    sims = [Simulator(f"sim-{number}", folder, *QUICKLY) for number in (1, 2)]
    running: list[Prometheus] = []
    try:
        redis.start()
        at = asyncio.run(_play(mesh, sims, folder, running))
        yield Scene(running[0], at)
    finally:
        for prometheus in running:
            prometheus.stop()
        let_go(mesh)
        for sim in sims:
            sim.clear_away()
        redis.kill()


async def _play(mesh: Mesh, sims: list[Simulator], folder: Path, running: list[Prometheus]) -> float:
    """Everything twice, with a look of Prometheus before, between and after: a rate needs two."""
    for sim in sims:
        await sim.start()
    await mesh.start()
    for sim in sims:
        await mesh.add_worker(vllm_url=sim.url)
    async with FakeGlobus(folder, node_environ(folder)) as globus:
        site = Site(mesh, globus, [])
        try:
            await site.create(idle_time=Duration(seconds=1))
            launcher = await site.launch()
            parts = {"router": mesh.router, "registry": mesh.registry, "auth": mesh.auth, "facade": mesh.facade}
            targets = {f"weft-{name}": part.ready.metrics for name, part in parts.items() if part.ready is not None}
            assert launcher.ready is not None
            prometheus = Prometheus(folder, {**targets, "weft-launcher": launcher.ready.metrics})
            running.append(prometheus)
            await prometheus.start()
            await prometheus.scraped()
            limited = await mesh.create_key(principal="users/limited")
            for _ in range(2):
                await asyncio.gather(_traffic(mesh, sims, limited), _cold_start(site))
                await prometheus.scraped()
            globus.hold()  # else a worker may be there before the next look
            waiting = Call(mesh, stream=True, model="sim-model", prefix="/resource_server/hpc/vllm")
            # A scrape that begins once the call was made may still be of a router that it has not reached.
            await mesh.until(lambda: mesh.router.metric(WAITING), lambda now: now > 0, "a call waits for a worker")
            await prometheus.scraped()
            at = time.time()  # before it leaves: the latest scrape until then saw it wait
            await waiting.leave()
            for address in prometheus.targets.values():
                await asyncio.to_thread(_lint, address)
            return at
        finally:
            for one in site.launchers:
                await asyncio.to_thread(one.clear_away)


def _lint(address: str) -> None:
    """Has promtool judge a page by Prometheus's rules for names and meanings."""
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        ran = subprocess.run(["promtool", "check", "metrics"], input=answer.read(), capture_output=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")


async def _traffic(mesh: Mesh, sims: list[Simulator], limited: str) -> None:
    """Streams and whole answers, refusals, a retry, a client who leaves, one who does not read."""
    for stream in (True, False):
        assert await Call(mesh, stream=stream, tokens=40).ending() == WHOLE
    await sims[0].fail(status=503)
    assert await asyncio.gather(*(Call(mesh, stream=True).ending() for _ in range(4))) == [WHOLE] * 4
    for sim in sims:
        await sim.fail(status=503)
    assert await Call(mesh, stream=False).ending() == "503"
    await Call(mesh, stream=False, model="nothing").ending()
    await Call(mesh, stream=False, key="wrong").ending()
    await asyncio.gather(*(Call(mesh, stream=False, key=limited).ending() for _ in range(4)))
    leaving = Call(mesh, stream=True, tokens=LONG)
    await leaving.begun()
    await leaving.leave()
    stalls = await mesh.router.metric(STALLS)
    slow = Sluggish(mesh, stream=True, max_tokens=LONG)
    await mesh.until(lambda: mesh.router.metric(STALLS), lambda now: now > stalls, "an answer stands still")
    slow.close()


async def _cold_start(site: Site) -> None:
    """A worker is started, and stopped when it is idle."""
    gone = len(await site.starts())
    async with site.wanting():
        await site.mesh.until(lambda: _states(site), lambda states: states[gone:] == ["READY"], "a worker is started")
    await site.want(waiting=0)
    await site.mesh.until(lambda: _states(site), lambda states: states[gone:] == ["GONE"], "it is stopped")


async def _states(site: Site) -> list[str]:
    from weft.launcher.v1 import launcher_pb2 as pb

    return [pb.StartState.Name(start.state).removeprefix("START_STATE_") for start in await site.starts()]


# The dashboard


def dashboard_queries() -> list[tuple[str, str]]:
    """Each query of the dashboard with its panel."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", ())]


EMPTY: dict[str, str] = {}
"""Queries that give nothing in a mesh that is well, with the reason."""


@pytest.mark.parametrize(("panel", "query"), dashboard_queries())
def test_each_query_of_the_dashboard_gives_data(scene: Scene, panel: str, query: str) -> None:
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    assert "$" not in query
    rows = scene.rows(query)
    assert bool(rows) != (panel in EMPTY), f"{panel}: {query} gives {rows}"


def test_the_variables_of_the_dashboard_have_values(scene: Scene) -> None:
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            values = {row["metric"].get(label, "") for row in scene.rows(f"count by ({label}) ({metric})")}
            assert values & {"sim-model", ENDPOINT, "clusters/local/endpoints/sim"}, variable["name"]


def test_the_dashboard_is_what_its_script_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DASHBOARD.parent)
    script = runpy.run_path(str(DASHBOARD.with_name("dashboard.py")))
    assert script["text"]() == DASHBOARD.read_text()


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert taken.setdefault((x, y), panel["title"]) is panel["title"]


# Alerts


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_each_alert_can_be_asked_and_explains_itself(scene: Scene, alert: dict[str, Any]) -> None:
    scene.rows(alert["expr"])
    for metric in OURS.findall(alert["expr"]):
        if not metric.endswith("_rate_interval") and metric not in LABELS:
            assert scene.rows(f"count({metric})"), f"there is no {metric}"
    assert alert["labels"]["severity"] in ("page", "ticket")
    for annotation in ("summary", "runbook"):
        assert alert["annotations"][annotation].endswith((".", "?"))
    assert f"`{alert['alert']}`" in DOCUMENT.read_text()


def test_no_alert_of_a_rule_fails_in_prometheus(scene: Scene) -> None:
    groups = scene.prometheus.ask("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(alerts())
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []


def test_each_alert_goes_off_for_what_it_is_meant_for() -> None:
    tests = ALERTS.with_name("alerts_test.yml")
    assert {alert["alert"] for alert in alerts()} == set(re.findall(r'alertname="(\w+)"', tests.read_text()))
    promtool("test", "rules", tests.name)


def test_what_is_deployed_is_valid() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("check", "config", "prometheus.yml", "machines.yml")


def test_of_weft_up_nothing_is_scraped_that_is_not_there() -> None:
    config = yaml.safe_load(ALERTS.with_name("prometheus.yml").read_text())
    jobs = {job["job_name"] for job in config["scrape_configs"]}
    assert jobs == {"weft-router", "weft-registry", "weft-auth", "weft-facade"}


def promtool(*arguments: str) -> None:
    ran = subprocess.run(["promtool", *arguments], cwd=ALERTS.parent, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


# The metrics themselves

LABELS = {"gen_ai_operation_name", "gen_ai_request_model", "gen_ai_token_type"}


def exported(scene: Scene) -> dict[str, tuple[str, str]]:
    """Type and meaning of each metric of Weft's that any service shows, by name."""
    told = scene.prometheus.ask("metadata")
    named = {}
    for name, ((entry, *_)) in told.items():
        if OURS.fullmatch(name):
            # Prometheus calls a counter's family as OpenMetrics does, without the end of its only series' name.
            total = "_total" if entry["type"] == "counter" and not name.endswith("_total") else ""
            named[name + total] = (entry["type"], entry["help"])
    return named


def test_every_metric_is_documented(scene: Scene) -> None:
    documented = set(re.findall(r"`((?:weft|gen_ai)_[a-z0-9_]+)`", DOCUMENT.read_text()))
    assert exported(scene).keys() - documented == set()


def test_no_metric_is_documented_that_is_not_there(scene: Scene) -> None:
    table = DOCUMENT.read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `((?:weft|gen_ai)_[a-z0-9_]+)`", table, re.MULTILINE))
    assert documented
    assert documented - exported(scene).keys() == set()


def test_every_metric_is_on_the_dashboard(scene: Scene) -> None:
    shown = {SUFFIX.sub("", name) for _, query in dashboard_queries() for name in OURS.findall(query)}
    assert {SUFFIX.sub("", name) for name in exported(scene)} - shown == set()


def test_meanings_are_sentences_and_counters_are_totals(scene: Scene) -> None:
    for name, (kind, meaning) in exported(scene).items():
        assert re.fullmatch(r"[A-Z0-9].*\.", meaning), f"{name}: {meaning}"
        assert (kind == "counter") == name.endswith("_total"), name


def test_what_happened_was_counted(scene: Scene) -> None:
    def counted(expression: str) -> float:
        return sum(float(row["value"][1]) for row in scene.rows(expression))

    calls = 'weft_router_calls_total{operation="chat"'
    assert counted(f'{calls},route="sim-model",outcome="ok",fault="none"}}') >= 12
    assert counted(f'{calls},route="sim-model",outcome="upstream_5xx",fault="mesh"}}') == 2
    assert counted(f'{calls},route="other",fault="caller"}}') == 2
    assert counted(f'{calls},outcome="requests_exhausted",fault="caller"}}') >= 2
    assert counted(f'{calls},outcome="cancelled",fault="none"}}') >= 4
    assert counted("weft_router_retries_total") >= 2
    assert counted('weft_router_turned_away_total{reason="credential_invalid"}') == 2
    assert counted('weft_facade_responses_total{status="499"}') >= 2
    assert counted("weft_router_estimated_calls_total") >= 2
    assert counted('weft_launcher_starts_total{outcome="stopped"}') == 2
    assert counted('gen_ai_server_time_per_output_token_seconds_count{gen_ai_request_model="sim-model"}') >= 10
    tokens = 'gen_ai_client_token_usage_sum{gen_ai_token_type="output"}'
    assert counted(tokens) >= 2 * (40 + 40)
