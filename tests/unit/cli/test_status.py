"""What `weft status` draws."""

from rich.console import Console

from services.cli.overview import EndpointRow, Overview, StartRow, WorkerRow
from services.cli.status import render

WORKER = WorkerRow("0123456789abcdef", "ready", "fine", ["sim-model"], 3, 1, 0.42, 4, 17, 12_345, 678)


def drawn(overview: Overview) -> str:
    console = Console(width=80, record=True, color_system=None)
    with console.capture() as capture:
        console.print(render(overview))
    return capture.get()


def test_a_worker_stands_under_its_endpoint_with_its_load() -> None:
    endpoint = EndpointRow("clusters/local/endpoints/sim", "active", "session", workers=[WORKER])
    lines = drawn(Overview(["sim-model"], [endpoint], [])).splitlines()
    assert lines[0].split() == ["clusters/local/endpoints/sim", "active", "sim-model"]
    assert lines[2].split() == ["01234567", "ready", "3", "1", "42%", "4", "17", "12,345", "678"]
    assert "Models that you may call: sim-model" in lines


def test_an_endpoint_without_a_worker_says_so() -> None:
    text = drawn(Overview([], [EndpointRow("clusters/a/endpoints/b", "active", "session")], []))
    assert "no worker" in text
    assert "Models that you may call: none" in text


def test_why_an_endpoint_or_a_worker_is_not_ready_is_told() -> None:
    loading = WorkerRow("w", "starting", "vLLM [loading] the model", [], 0, 0, 0.0, 0, 0, 0, 0)
    endpoints = [
        EndpointRow("clusters/a/endpoints/b", "maintenance", "session", notice="back on Monday"),
        EndpointRow("clusters/a/endpoints/c", "active", "session", workers=[loading]),
    ]
    text = drawn(Overview([], endpoints, []))
    assert "maintenance (back on Monday)" in text
    assert "clusters/a/endpoints/c w: vLLM [loading] the model" in text


def test_what_cannot_be_reached_is_said_beside_what_can() -> None:
    text = drawn(Overview([], [EndpointRow("clusters/a/endpoints/b", workers=[WORKER])], ["The registry is away."]))
    assert "The registry is away." in text
    assert "01234567" in text


def test_a_start_says_how_far_it_is() -> None:
    queued = StartRow(
        "starts/a",
        0,
        "queued",
        "its job is in the queue",
        job="77",
        queue_position=3,
        expected_start="2026-11-21T14:05",
    )
    endpoint = EndpointRow("clusters/a/endpoints/b", "active", "globus", starts=[queued])
    text = " ".join(drawn(Overview([], [endpoint], [])).split())
    assert "no worker" in text
    assert "queued its job is in the queue; place 3 in the queue; expected to start at 2026-11-21T14:05; job 77" in text


def test_a_start_whose_worker_is_there_is_not_told_twice() -> None:
    ready = StartRow("starts/a", 0, "ready", "takes calls", WORKER.instance)
    failed = StartRow("starts/b", 1, "failed", "no GPU was found")
    endpoint = EndpointRow("clusters/a/endpoints/b", "active", "globus", workers=[WORKER], starts=[ready, failed])
    text = drawn(Overview([], [endpoint], []))
    assert "takes calls" not in text
    assert "failed  no GPU was found" in text
