"""The roster: what it knows, what it remembers, and whom it wakes."""

from __future__ import annotations

import weakref

from services.core.catalogue import Catalogue, Deleted, Endpoint, ModelBinding, SessionBackend
from services.router.roster import Roster
from services.router.targets import Server
from tests.testing.clock import Clock
from tests.testing.streams import Answerer
from tests.testing.waiting import Waiter

ONE, TWO = "clusters/one/endpoints/vllm", "clusters/two/endpoints/vllm"
CATALOGUE = Catalogue.of([Endpoint(ONE, SessionBackend()), Endpoint(TWO, SessionBackend())])

LISTED = Catalogue.of(
    [
        Endpoint(ONE, SessionBackend(), models=(ModelBinding("a"),)),
        Endpoint(TWO, SessionBackend(), models=(ModelBinding("b"), ModelBinding("c"))),
    ]
)


def roster(catalogue: Catalogue = CATALOGUE) -> tuple[Roster, Clock]:
    clock = Clock()
    made = Roster(settle=5, clock=clock.time)
    made.set_catalogue(catalogue)
    return made, clock


def server(endpoint: str, *models: str) -> Server:
    return Server(endpoint, "instance", Answerer(), dict.fromkeys(models, ""), ready=True)


def waiter(made: Roster, woken: list[str], name: str, model: str = "a", cluster: str = "") -> Waiter:
    waiting = Waiter(lambda: woken.append(name))
    made.waiting_calls.add(waiting, made.sought(model, cluster, "", ""))
    return waiting


def test_it_settles_after_a_while():
    made, clock = roster()
    clock.advance(4.9)
    assert not made.settled
    clock.advance(0.1)
    assert made.settled
    assert made.settles_in == 0


def test_servers_that_came_before_the_catalogue_count_once_it_is_there():
    made = Roster(settle=0)
    made.add(server(ONE, "a"))
    assert made.find("a") is None
    made.set_catalogue(CATALOGUE)
    assert len(made.find("a") or ()) == 1


def test_a_model_is_missed_while_its_worker_is_away_and_unknown_once_the_endpoint_is_gone():
    made, _ = roster()
    one = server(ONE, "a")
    made.add(one)
    made.remove(one)
    assert made.find("a") == ()
    assert made.models == ("a",)
    made.set_catalogue(CATALOGUE.apply([Deleted(ONE)]))
    assert made.find("a") is None
    made.set_catalogue(CATALOGUE)
    assert made.find("a") is None


def test_it_remembers_a_bounded_number_of_models_the_latest_ones():
    made, _ = roster()
    for number in range(100):
        one = server(ONE, f"m{number}")
        made.add(one)
        made.remove(one)
    assert len(made.models) == 64
    assert made.find("m35") is None
    assert made.find("m36") == ()


def test_a_server_that_comes_wakes_all_who_wait_for_it_once_in_order():
    made, _ = roster(LISTED)
    woken: list[str] = []
    for name in "abc":
        waiter(made, woken, name)
    waiter(made, woken, "for b", "b")
    made.refresh()
    made.add(server(TWO, "c"))
    assert woken == [], "nothing has come that they could have"
    made.add(server(ONE, "a"))
    assert woken == ["a", "b", "c"]
    made.refresh()
    assert (woken, made.waiting) == (["a", "b", "c"], 1)


def test_who_waits_in_several_queues_for_one_server_goes_in_order():
    made, _ = roster(LISTED)
    woken: list[str] = []
    waiter(made, woken, "first")
    waiter(made, woken, "second, pinned", cluster="one")
    waiter(made, woken, "third")
    made.add(server(ONE, "a"))
    assert woken == ["first", "second, pinned", "third"]


def test_whoever_waits_for_a_model_that_is_gone_is_woken():
    made, _ = roster(LISTED)
    woken: list[str] = []
    waiter(made, woken, "a")
    waiter(made, woken, "b", "b")
    made.set_catalogue(LISTED.apply([Deleted(ONE)]))
    assert woken == ["a"]


def test_whoever_waits_again_when_woken_keeps_the_order_and_is_not_woken_for_ever():
    made, _ = roster(LISTED)
    woken: list[str] = []

    def again(name: str) -> Waiter:
        def wake() -> None:
            woken.append(name)
            made.waiting_calls.add(waiting, made.sought("a", "", "", ""))

        waiting = Waiter(wake)
        return waiting

    one = server(ONE, "a")
    for name in "ab":
        made.waiting_calls.add(again(name), made.sought("a", "", "", ""))
    made.add(one)
    assert woken == ["a"], "it holds up the others, as it cannot go although the server is free"
    made.heard(one)
    assert (woken, made.waiting) == (["a", "a"], 2)


def test_no_more_are_woken_than_the_server_takes():
    made, _ = roster(LISTED)
    one = server(ONE, "a")
    one.max_calls = 2

    def taking(name: str) -> Waiter:
        def wake() -> None:
            woken.append(name)
            one.open_calls += 1

        return Waiter(wake)

    woken: list[str] = []
    for name in "abcd":
        made.waiting_calls.add(taking(name), made.sought("a", "", "", ""))
    made.add(one)
    assert woken == ["a", "b"]
    one.open_calls -= 1
    made.freed(one)
    assert (woken, made.waiting) == (["a", "b", "c"], 1)


def test_a_free_place_goes_to_the_one_who_waited_longest_for_it():
    made, _ = roster()
    one, two = server(ONE, "a"), server(TWO, "b")
    one.max_calls = two.max_calls = 1
    made.add(one)
    made.add(two)
    woken: list[str] = []

    def waiter(made: Roster, woken: list[str], name: str, model: str = "a", cluster: str = "") -> None:
        def wake() -> None:
            woken.append(name)
            (one if model == "a" else two).open_calls += 1

        made.waiting_calls.add(Waiter(wake), made.sought(model, cluster, "", ""))

    waiter(made, woken, "for b", "b")
    waiter(made, woken, "pinned elsewhere", "a", "two")
    waiter(made, woken, "first")
    waiter(made, woken, "second")
    made.freed(one)
    assert woken == ["first"]
    made.freed(one)
    assert woken == ["first"], "it is full again"
    one.open_calls -= 1
    made.freed(one)
    assert woken == ["first", "second"]
    made.freed(two)
    assert (woken, made.waiting) == (["first", "second", "for b"], 1)


def test_whoever_left_is_not_woken():
    made, _ = roster(LISTED)
    woken: list[str] = []
    leave = waiter(made, woken, "left")
    waiter(made, woken, "stayed")
    made.waiting_calls.leave(leave)
    made.waiting_calls.leave(leave)
    made.add(server(ONE, "a"))
    assert woken == ["stayed"]


def test_nothing_is_kept_of_whoever_left_though_others_wait_longer():
    made, _ = roster(LISTED)
    woken: list[str] = []
    waiter(made, woken, "stays")
    left = waiter(made, woken, "leaves")
    kept = weakref.ref(left)
    made.waiting_calls.leave(left)
    del left
    assert kept() is None, "its body would count for nobody, and fill the memory"
    for _ in range(1000):
        made.waiting_calls.leave(waiter(made, woken, "leaves"))
    made.add(server(ONE, "a"))
    assert woken == ["stays"]


def test_a_listed_model_is_no_memory():
    made, _ = roster(Catalogue.of([Endpoint(ONE, SessionBackend(), models=(ModelBinding("a"),))]))
    assert made.find("a") == ()
    made.set_catalogue(Catalogue())
    assert made.find("a") is None


def test_a_server_that_is_heard_to_be_well_wakes_those_who_wait_for_it():
    made, _ = roster()
    one, two = server(ONE, "a"), server(TWO, "b")
    made.add(one)
    made.add(two)
    woken: list[str] = []
    waiter(made, woken, "a")
    waiter(made, woken, "b", "b")
    waiter(made, woken, "a too")
    made.heard(one)
    assert (woken, made.waiting) == (["a", "a too"], 1)
