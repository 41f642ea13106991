"""One view of a start's worker from what several routers tell of it."""

from weft.session.v1 import frame_pb2, session_pb2

from services.launcher.routers import Place, Routers, merge

READY, STARTING = frame_pb2.WORKER_STATE_READY, frame_pb2.WORKER_STATE_STARTING


def session(
    start: str, state: int = READY, *, detail: str = "", open_calls: int = 0, end: int = 0
) -> session_pb2.Session:
    made = session_pb2.Session(
        endpoint="clusters/c/endpoints/e",
        instance=f"i-{start}",
        start=start,
        open_calls=open_calls,
        ended_calls=10,
        report=frame_pb2.Report(state=frame_pb2.WorkerState.ValueType(state), detail=detail),
    )
    if end:
        made.report.job.id = "77"
        made.report.job.end_time.seconds = end
    return made


def at(router: str, seen: session_pb2.Session) -> tuple[Place, session_pb2.Session]:
    return Place(router, seen.endpoint, seen.instance), seen


def test_calls_at_all_routers_count_together() -> None:
    found = [at("r1", session("a", open_calls=2, end=5000)), at("r2", session("a", open_calls=3, end=5000))]
    sightings = merge(found, complete=True)
    seen = sightings.workers["a"]
    assert (seen.open_calls, seen.ended_calls, seen.ready, seen.job, seen.job_end) == (5, 20, True, "77", 5000.0)
    assert [place.router for place in sightings.places["a"]] == ["r1", "r2"]


def test_a_router_that_has_not_heard_of_it_yet_changes_nothing() -> None:
    found = [at("r1", session("a", 0)), at("r2", session("a", READY, end=5000))]
    assert merge(found, complete=True).workers["a"].ready
    assert merge(found, complete=True).workers["a"].job_end == 5000.0
    only = merge(found[:1], complete=False)
    assert (only.workers["a"].ready, only.workers["a"].instance, only.complete) == (False, "i-a", False)


def test_starts_are_kept_apart() -> None:
    found = [at("r1", session("a", STARTING, detail="loading")), at("r1", session("b"))]
    workers = merge(found, complete=True).workers
    assert {name: seen.ready for name, seen in workers.items()} == {"a": False, "b": True}
    assert workers["a"].detail == "loading"


def test_a_worker_that_drains_drains() -> None:
    draining = frame_pb2.WORKER_STATE_DRAINING
    assert merge([at("r1", session("a", draining)), at("r2", session("a"))], complete=True).workers["a"].draining


def test_a_worker_whose_job_ends_at_no_time_that_there_is_hides_no_other() -> None:
    workers = merge([at("r1", session("a", end=2**62)), at("r1", session("b", end=5000))], complete=True).workers
    assert (workers["a"].ready, workers["a"].job_end, workers["b"].job_end) == (True, None, 5000.0)


async def test_a_router_that_does_not_answer_was_away_for_a_while_after() -> None:
    now = [1000.0]
    async with Routers(["127.0.0.1:1"], lambda: "key", clock=lambda: now[0]) as routers:
        assert not routers.was_away(60)
        assert not (await routers.look()).complete
        now[0] += 59
        assert routers.was_away(60)
        now[0] += 1
        assert not routers.was_away(60)
