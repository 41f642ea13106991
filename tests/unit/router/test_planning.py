"""Targets, the plan and the policy: who may take a call, who goes first, and why the others may not."""

from __future__ import annotations

import pytest

from services.core.catalogue import (
    Availability,
    Catalogue,
    Cluster,
    Endpoint,
    HttpBackend,
    ModelBinding,
    Route,
    RouteTarget,
    SessionBackend,
)
from services.core.globus import GlobusBackend, GlobusFunction, LaunchPolicy
from services.router.plan import DRAINING, FULL, NOT_READY, PRIVATE, TRIED, plan
from services.router.policies import least_outstanding
from services.router.targets import Server, Sought, Target, build_index
from tests.testing.streams import Answerer

ONE, TWO, WEB = "clusters/one/endpoints/vllm", "clusters/two/endpoints/vllm", "clusters/two/endpoints/web"


def server(endpoint: str = ONE, *models: str, ready: bool = True, **state: int) -> Server:
    made = Server(endpoint, "instance", Answerer(), dict.fromkeys(models, ""), ready=ready)
    for name, value in state.items():
        setattr(made, name, value)
    return made


def target(made: Server, closed: str = "") -> Target:
    return Target(made, "one", "vllm", "m", closed)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (server(), ""),
        (server(ready=False), NOT_READY),
        (server(draining=True), DRAINING),
        (server(max_calls=2, open_calls=2), FULL),
        (server(max_calls=2, open_calls=3), FULL),
        (server(max_calls=2, open_calls=1), ""),
        (server(max_calls=0, open_calls=1000), ""),
    ],
)
def test_who_may_take_a_call(made, reason):
    planned = plan([target(made)], policy=least_outstanding)
    assert planned.candidates == (() if reason else (target(made),))
    assert [why for _, why in planned.left_out] == ([reason] if reason else [])


def test_a_server_with_one_principal_takes_no_others_calls():
    private = server()
    private.serves = "users/a"
    assert plan([target(private)], policy=least_outstanding, caller="users/a").candidates == (target(private),)
    for caller in ("users/b", ""):
        planned = plan([target(private)], policy=least_outstanding, caller=caller)
        assert planned.left_out == ((target(private), PRIVATE),)


def test_a_server_that_failed_the_call_is_left_out():
    failed, other = server(), server()
    planned = plan([target(failed), target(other)], policy=least_outstanding, tried=[failed])
    assert planned.candidates == (target(other),)
    assert planned.left_out == ((target(failed), TRIED),)


@pytest.mark.parametrize(
    ("closed", "expected"),
    [([], ""), (["shut"], "shut"), (["shut", "off"], "shut"), (["shut", ""], "")],
)
def test_waiting_is_of_no_use_if_every_target_is_closed(closed, expected):
    targets = [target(server(ready=False), why) for why in closed]
    assert plan(targets, policy=least_outstanding).closed == expected


def test_a_candidate_is_reason_enough_to_go_on():
    assert plan([target(server(), "shut"), target(server())], policy=least_outstanding).closed == ""


def test_the_least_busy_goes_first():
    busy = server(outstanding_tokens=500, open_calls=1)
    idle_since_long = server(last_call=1)
    idle = server(last_call=2)
    small = server(outstanding_tokens=10, open_calls=1, last_call=0)
    smaller_by_calls = server(outstanding_tokens=10, open_calls=0, last_call=9)
    servers = [busy, idle, small, idle_since_long, smaller_by_calls]
    ordered = [each.server for each in least_outstanding([target(each) for each in servers])]
    assert ordered == [idle_since_long, idle, smaller_by_calls, small, busy]


def endpoint(name: str, *models: str | ModelBinding, framework: str = "vllm", **fields: object) -> Endpoint:
    bindings = tuple(model if isinstance(model, ModelBinding) else ModelBinding(model) for model in models)
    return Endpoint(name, SessionBackend(), framework=framework, models=bindings, **fields)  # type: ignore[arg-type]


def test_an_open_endpoint_serves_what_its_workers_report():
    catalogue = Catalogue.of([Cluster("clusters/one"), endpoint(ONE)])
    one = server(ONE, "a", "b")
    index = build_index(catalogue, [one], {})
    assert index.find("a", "", "") == (Target(one, "one", "vllm", "a"),)
    assert index.find("b", "", "") == (Target(one, "one", "vllm", "b"),)
    assert index.find("c", "", "") is None


def test_a_listed_model_is_known_without_a_server_and_served_under_its_own_name():
    catalogue = Catalogue.of([endpoint(ONE, ModelBinding("public", "own"), "other")])
    one = server(ONE, "own", "unlisted")
    index = build_index(catalogue, [one], {})
    assert index.find("public", "", "") == (Target(one, "one", "vllm", "own"),)
    assert index.find("other", "", "") == ()
    assert index.find("own", "", "") is None
    assert index.find("unlisted", "", "") is None


def test_a_model_that_a_worker_served_is_missed_and_not_unknown():
    index = build_index(Catalogue.of([endpoint(ONE), endpoint(TWO, "x")]), [], {ONE: ["a"], TWO: ["b"]})
    assert index.find("a", "", "") == ()
    assert index.find("b", "", "") is None, "an endpoint that lists its models serves no others"


def test_a_server_of_an_endpoint_that_does_not_exist_serves_nothing():
    assert build_index(Catalogue.of([endpoint(ONE)]), [server(TWO, "a")], {}).find("a", "", "") is None


def test_a_route_leads_to_its_targets_in_order_and_hides_what_others_serve():
    catalogue = Catalogue.of(
        [
            endpoint(ONE, "small"),
            endpoint(TWO, "large"),
            Endpoint(WEB, HttpBackend("http://web"), models=(ModelBinding("large", "gpt"),)),
            Route("routes/best", "best", (RouteTarget(WEB, "large"), RouteTarget(ONE, "small"))),
            Route("routes/large", "large", (RouteTarget(TWO),)),
            Route("routes/none", "none"),
        ]
    )
    one, two, web = server(ONE, "small"), server(TWO, "large"), server(WEB, "gpt")
    index = build_index(catalogue, [one, two, web], {})
    assert [each.server for each in index.find("best", "", "") or ()] == [web, one]
    assert [each.served_model for each in index.find("best", "", "") or ()] == ["gpt", "small"]
    assert [each.server for each in index.find("large", "", "") or ()] == [two]
    assert index.find("none", "", "") == ()
    assert [each.server for each in index.find("small", "", "") or ()] == [one]


@pytest.mark.parametrize(
    ("cluster", "framework", "expected"),
    [
        ("one", "", [ONE]),
        ("two", "", [TWO, WEB]),
        ("two", "vllm", [TWO]),
        ("", "vllm", [ONE, TWO]),
        ("three", "", []),
        ("one", "sglang", []),
    ],
)
def test_a_pinned_call_reaches_what_the_cluster_serves_itself(cluster, framework, expected):
    catalogue = Catalogue.of(
        [
            endpoint(ONE),
            endpoint(TWO),
            endpoint(WEB, framework="api"),
            Route("routes/a", "a", (RouteTarget(ONE),)),
        ]
    )
    index = build_index(catalogue, [server(ONE, "a"), server(TWO, "a"), server(WEB, "a")], {})
    assert [each.server.endpoint for each in index.find("a", cluster, framework) or ()] == expected
    assert index.find("b", cluster, framework) is None


@pytest.mark.parametrize(
    ("cluster", "one", "closed"),
    [
        (Availability.ACTIVE, Availability.ACTIVE, ""),
        (Availability.DRAINING, Availability.ACTIVE, "The cluster 'clusters/one' is draining: back soon."),
        (
            Availability.MAINTENANCE,
            Availability.DRAINING,
            "The cluster 'clusters/one' is under maintenance: back soon.",
        ),
        (Availability.ACTIVE, Availability.MAINTENANCE, f"The endpoint '{ONE}' is under maintenance."),
    ],
)
def test_what_is_closed_says_why(cluster, one, closed):
    catalogue = Catalogue.of(
        [Cluster("clusters/one", availability=cluster, notice="back soon"), endpoint(ONE, availability=one)]
    )
    (found,) = build_index(catalogue, [server(ONE, "a")], {}).find("a", "", "") or ()
    assert found.closed == closed


# Where workers can be started


def cold_endpoint(name: str, *models: str, **policy: str) -> Endpoint:
    launch = LaunchPolicy(GlobusFunction("e"), **policy)  # type: ignore[arg-type]
    return Endpoint(
        name, GlobusBackend(launch=launch), framework="vllm", models=tuple(ModelBinding(model) for model in models)
    )


def places(catalogue: Catalogue, *sought: str, servers: tuple[Server, ...] = ()) -> list[tuple[str, int, bool]]:
    found = build_index(catalogue, servers, {}).launchable(Sought(*sought))
    return [(one.endpoint, one.workers, bool(one.closed)) for one in found]


def test_where_workers_can_be_started_by_name_route_and_pin():
    route = Route("routes/r", "r", (RouteTarget(TWO, "b"), RouteTarget(ONE, "a"), RouteTarget(TWO, "b")))
    catalogue = Catalogue.of(
        [Cluster("clusters/one"), cold_endpoint(ONE, "a"), cold_endpoint(TWO, "a", "b", serves="users/x"), route]
    )
    assert places(catalogue, "a", "", "", "") == [(ONE, 0, False)]
    assert places(catalogue, "a", "", "", "users/x") == [(ONE, 0, False), (TWO, 0, False)]
    assert places(catalogue, "a", "two", "vllm", "users/x") == [(TWO, 0, False)]
    assert places(catalogue, "b", "one", "", "users/x") == []
    assert places(catalogue, "r", "", "", "users/x") == [(TWO, 0, False), (ONE, 0, False)]
    assert places(catalogue, "unknown", "", "", "") == []
    shut = Cluster("clusters/one", availability=Availability.MAINTENANCE)
    attached = server(ONE, "a", ready=False)
    assert places(catalogue.apply([shut]), "a", "", "", "", servers=(attached,)) == [(ONE, 1, True)]


def test_an_endpoint_without_workers_to_start_is_no_such_place():
    catalogue = Catalogue.of(
        [Endpoint(ONE, SessionBackend(), models=(ModelBinding("a"),)), Endpoint(TWO, GlobusBackend())]
    )
    assert places(catalogue, "a", "", "", "") == []
    assert build_index(catalogue, (), {}).launchables == ()
