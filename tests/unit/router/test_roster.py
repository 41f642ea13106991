"""The roster: what it knows, what it remembers, and whom it wakes."""

from __future__ import annotations

from collections.abc import Callable

from services.core.catalogue import Catalogue, Deleted, Endpoint, ModelBinding, SessionBackend
from services.router.roster import Roster
from services.router.targets import Server
from tests.testing.clock import Clock
from tests.testing.streams import Answerer

ONE, TWO = "clusters/one/endpoints/vllm", "clusters/two/endpoints/vllm"
CATALOGUE = Catalogue.of([Endpoint(ONE, SessionBackend()), Endpoint(TWO, SessionBackend())])


def roster(catalogue: Catalogue = CATALOGUE) -> tuple[Roster, Clock]:
    clock = Clock()
    made = Roster(settle=5, clock=clock.time)
    made.set_catalogue(catalogue)
    return made, clock


def server(endpoint: str, *models: str) -> Server:
    return Server(endpoint, "instance", Answerer(), dict.fromkeys(models, ""), ready=True)


def waiter(made: Roster, woken: list[str], name: str, model: str = "a", cluster: str = "") -> Callable[[], None]:
    def wake() -> None:
        woken.append(name)

    made.wait(wake, model, cluster, "")
    return wake


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


def test_every_change_wakes_all_who_wait_once_in_order():
    made, _ = roster()
    woken: list[str] = []
    for name in "abc":
        waiter(made, woken, name)
    made.add(server(ONE, "a"))
    assert woken == ["a", "b", "c"]
    made.refresh()
    assert (woken, made.waiting) == (["a", "b", "c"], 0)


def test_whoever_waits_again_when_woken_keeps_the_order_and_is_not_woken_for_ever():
    made, _ = roster()
    woken: list[str] = []

    def again(name: str) -> Callable[[], None]:
        def wake() -> None:
            woken.append(name)
            made.wait(wake, "a", "", "")

        return wake

    for name in "ab":
        again(name)()
    woken.clear()
    made.refresh()
    made.refresh()
    assert woken == ["a", "b", "a", "b"]


def test_a_free_place_goes_to_the_one_who_waited_longest_for_it():
    made, _ = roster()
    one, two = server(ONE, "a"), server(TWO, "b")
    made.add(one)
    made.add(two)
    woken: list[str] = []
    waiter(made, woken, "for b", "b")
    waiter(made, woken, "pinned elsewhere", "a", "two")
    waiter(made, woken, "first")
    waiter(made, woken, "second")
    made.freed(one)
    assert woken == ["first"]
    made.freed(one)
    made.freed(one)
    assert woken == ["first", "second"]
    made.freed(two)
    assert (woken, made.waiting) == (["first", "second", "for b"], 1)


def test_whoever_left_is_not_woken():
    made, _ = roster()
    woken: list[str] = []
    leave = waiter(made, woken, "left")
    waiter(made, woken, "stayed")
    made.leave(leave)
    made.leave(leave)
    made.refresh()
    assert woken == ["stayed"]


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
    made.wait(lambda: woken.append("a"), "a", "", "")
    made.wait(lambda: woken.append("b"), "b", "", "")
    made.wait(lambda: woken.append("a too"), "a", "", "")
    made.heard(one)
    assert (woken, made.waiting) == (["a", "a too"], 1)
