"""Traces, as `weft trace` lists and draws them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli.failures import CommandError
from services.cli.trace import app
from services.cli.trace_render import ASCII, duration, render
from services.cli.trace_tree import Trace, find, rows, traces
from services.core.tracing import Attributes, Event, Span, TraceContext
from services.runtime.telemetry.files import TraceFiles
from tests.testing.exports import span

MS = 1_000_000
BEGAN = 1_795_282_650 * 1000 * MS
ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def one(id: int, parent: int = 0, begin: int = 0, end: int = 100, trace: str = ID, **fields: object) -> Span:
    """A span; ids are small numbers, times in milliseconds since the trace began."""
    return span(
        context=TraceContext.of(trace, f"{id:016x}", True),
        parent_id=f"{parent:016x}" if parent else "",
        start_ns=BEGAN + begin * MS,
        end_ns=BEGAN + end * MS,
        **{"name": f"span {id}", **fields},
    )


def streamed() -> list[Span]:
    """A call whose caller traces too, retried once."""
    told = {
        "weft.principal": "users/ada",
        "gen_ai.request.model": "opt",
        "weft.outcome": "ok",
        "weft.attempts": 2,
        "weft.request_id": "my-request",
    }
    first = Event("gen_ai.first_token", BEGAN + 500 * MS)
    return [
        one(2, 1, 0, 1000, name="POST /v1/chat/completions", service="facade"),
        one(3, 2, 10, 1000, name="chat opt", attributes=told, events=(first, Event("planned", BEGAN + 11 * MS))),
        one(4, 3, 20, 100, name="dispatch clusters/a/endpoints/b", error="worker_lost"),
        one(5, 3, 100, 990, name="dispatch clusters/a/endpoints/c"),
        one(6, 5, 110, 980, name="serve chat", service="worker"),
    ]


def text(spans: Sequence[Span], width: int = 100, **how: bool) -> list[str]:
    (trace,) = traces(spans)
    return [line.plain.rstrip() for line in render(trace, width, **how)]


def drawn(trace: Trace) -> list[tuple[str, int]]:
    return [(row.missing if row.span is None else row.span.name, len(row.lasts)) for row in rows(trace)]


def test_the_newest_trace_is_first_and_a_span_that_came_twice_counts_once() -> None:
    old, new = one(1, trace="a" * 32), one(1, begin=5, trace="b" * 32)
    found = traces([old, new, new, one(2, 1, trace="a" * 32)])
    assert [(trace.id[0], len(trace.spans)) for trace in found] == [("b", 1), ("a", 2)]


def test_siblings_stand_in_the_order_of_their_start() -> None:
    (trace,) = traces([one(4, 1, begin=9), one(3, 1, begin=5), one(1), one(5, 3, begin=6)])
    assert drawn(trace) == [("span 1", 0), ("span 3", 1), ("span 5", 2), ("span 4", 1)]


def test_spans_whose_parent_is_not_known_stand_below_a_place_for_it() -> None:
    (trace,) = traces([one(1), one(7, 6, begin=5), one(8, 6, begin=7), one(9, 8, begin=8)])
    assert drawn(trace) == [("span 1", 0), (f"{6:016x}", 0), ("span 7", 1), ("span 8", 1), ("span 9", 2)]


def test_spans_that_are_each_others_parents_are_shown_all_the_same() -> None:
    (trace,) = traces([one(1), one(2, 3), one(3, 2), one(4, 4)])
    assert sorted(name for name, _ in drawn(trace)) == ["span 1", "span 2", "span 3", "span 4"]
    assert len(text(trace.spans)) == 8


def test_a_tree_may_be_deeper_than_the_stack() -> None:
    deep = text([one(number, number - 1) for number in range(1, 5000)])
    assert len(deep) == 4 + 4999
    assert max(map(len, deep)) <= 100


def test_a_streamed_call_that_was_retried() -> None:
    title, facts, *lines = text(streamed(), 84)
    assert title == f"Trace {ID}"
    assert facts.endswith("  1.00 s  5 spans  ok, 2 attempts")
    assert lines == [
        "",
        "                                                   start       took",
        f"        ({1:016x}, which is not kept here: the caller's own, perhaps)",
        "facade  └ POST /v1/chat/completions                    0     1.00 s  ━━━━━━━━━━━━━━━",
        "router    └ chat opt                             10.0 ms   990.0 ms  ━━━━━━━◆━━━━━━━",
        "            ◆ first token                       500.0 ms",
        "router      ├ dispatch clusters/a/endpoints/b    20.0 ms    80.0 ms  ━━",
        "            │ ✗ worker lost",
        "router      └ dispatch clusters/a/endpoints/c   100.0 ms   890.0 ms   ━━━━━━━━━━━━━━",
        "worker        └ serve chat                      110.0 ms   870.0 ms   ━━━━━━━━━━━━━━",
    ]


@pytest.mark.parametrize("width", [200, 120, 80, 60])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, text(streamed(), width))) <= width
    assert max(map(len, text(streamed(), width, details=True))) <= width


def test_details_are_all_events_and_attributes() -> None:
    lines = "\n".join(text(streamed(), details=True))
    assert "◆ planned" in lines
    assert "weft.principal = users/ada" in lines
    assert "planned" not in "\n".join(text(streamed()))


def test_callers_names_cannot_command_the_terminal() -> None:
    assert "\x1b" not in "\n".join(text([one(1, name="chat \x1b[2J", attributes={"a": "\x1b]0;x"})], details=True))


def test_where_only_ascii_can_be_written() -> None:
    (trace,) = traces(streamed())
    assert all(line.plain.isascii() for line in render(trace, 100, marks=ASCII))


@pytest.mark.parametrize(
    ("nanoseconds", "told"),
    [(0, "0"), (900, "1 us"), (1_500_000, "1.5 ms"), (2_340 * MS, "2.34 s"), (125_000 * MS, "2 min 5 s")],
)
def test_durations(nanoseconds: int, told: str) -> None:
    assert duration(nanoseconds) == told


def test_a_trace_is_found_by_the_beginning_of_its_id_and_by_its_request() -> None:
    known = traces([*streamed(), one(1, trace="4b" + "0" * 30)])
    assert [trace.id for trace in find(known, "4BF9")] == [ID]
    assert [trace.id for trace in find(known, "my-request")] == [ID]
    assert len(find(known, "4b")) == 2
    assert find(known, "5") == []


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEFT_HOME", str(tmp_path))
    return tmp_path


def keep(home: Path, spans: Sequence[Span]) -> None:
    files = TraceFiles(home, "router")
    files.export(spans)
    files.close()


def test_the_list(home: Path) -> None:
    keep(home, [*streamed(), one(1, begin=-99_000, trace="a" * 32, name="chat nope"), one(1, trace="b" * 32)])
    told = CliRunner().invoke(app, []).stdout
    assert [word in told for word in (ID[:12], "users/ada", "opt", "ok, 2 attempts", "a" * 12)] == [True] * 5
    assert told.index(ID[:12]) < told.index("a" * 12)
    (worst,) = json.loads(CliRunner().invoke(app, ["--errors", "--json"]).stdout)
    assert (worst["trace_id"], worst["name"], worst["spans"]) == (ID, "POST /v1/chat/completions", 5)
    assert len(json.loads(CliRunner().invoke(app, ["--limit", "2", "--json"]).stdout)) == 2


@pytest.mark.parametrize(
    ("attributes", "status", "failed"),
    [
        ({"http.response.status_code": 200}, "ok", False),
        ({"http.response.status_code": 404}, "HTTP 404", True),
        ({"http.response.status_code": 400, "weft.outcome": "ok"}, "HTTP 400", True),
        ({"http.response.status_code": 404, "weft.outcome": "model_not_found"}, "model not found", True),
        ({"http.response.status_code": 499, "weft.outcome": "cancelled"}, "cancelled", False),
    ],
)
def test_what_a_model_server_refused_is_not_called_well(attributes: Attributes, status: str, failed: bool) -> None:
    (trace,) = traces([one(1, attributes=attributes)])
    assert (trace.status, trace.failed) == (status, failed)


def test_a_trace_is_called_by_the_call_and_not_by_what_an_envoy_asked_auth_before() -> None:
    check = one(1, 90, begin=-5, end=-1, name="envoy.service.auth.v3.Authorization/Check")
    (trace,) = traces([check, one(2, 91, name="POST /v1/chat/completions"), one(3, 2, end=200, name="chat opt")])
    assert trace.root.name == "POST /v1/chat/completions"


def test_the_list_tells_ids_apart_that_begin_alike(home: Path) -> None:
    ids = ["a" * 20 + letter * 12 for letter in "bc"]
    keep(home, [one(1, trace=id) for id in (*ids, ID)])
    told = CliRunner().invoke(app, []).stdout
    assert [id[:21] in told for id in ids] == [True, True]
    assert ids[0][:22] not in told
    assert ID[:12] in told
    assert ID[:13] not in told


def test_one_of_them(home: Path) -> None:
    keep(home, [*streamed(), one(1, trace="4b" + "0" * 30)])
    shown = CliRunner().invoke(app, [ID[:5]]).stdout
    assert shown.startswith(f"Trace {ID}\n")
    assert "\x1b" not in shown
    assert len(json.loads(CliRunner().invoke(app, [ID, "--json"]).stdout)) == 5
    with pytest.raises(CommandError, match=f"2 traces are meant by '4b'.*{ID}"):
        CliRunner().invoke(app, ["4b"], catch_exceptions=False)
    with pytest.raises(CommandError, match=r"no trace 'ffff': 'weft trace' lists"):
        CliRunner().invoke(app, ["ffff"], catch_exceptions=False)


def test_where_nothing_is_kept_the_way_to_keep_is_told(home: Path) -> None:
    assert "tracing.local: true" in CliRunner().invoke(app, []).stdout
    keep(home, [one(1)])
    assert "Nothing failed" in CliRunner().invoke(app, ["--errors"]).stdout
