"""Where server-sent events end, however the bytes arrive."""

import re

from hypothesis import given
from hypothesis import strategies as st

from services.facade import events
from services.facade.events import EventBoundary

STREAMS = st.lists(st.sampled_from([b"data: a", b"\n", b"\r", b"\r\n", b"\n\n", b"x", b": ping"]), max_size=30).map(
    b"".join
)
WHOLE = re.compile(rb"(?:\n\n|\r\n\r\n|\r\r)\Z")


@given(STREAMS, st.data())
def test_any_chunking_gives_the_same_bytes_and_never_half_an_event(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    boundary, out = EventBoundary(), b""
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        let_through = boundary.feed(stream[start:end])
        out += let_through
        assert not let_through or WHOLE.search(let_through)
    assert out + boundary.rest() == stream
    assert boundary.rest() == b""
    assert not boundary.torn


def test_an_event_goes_out_as_soon_as_it_is_whole() -> None:
    boundary = EventBoundary()
    assert boundary.feed(b"data: a\n") == b""
    assert boundary.feed(b"\ndata: b") == b"data: a\n\n"
    assert boundary.feed(b"\r\n\r") == b""
    assert boundary.feed(b"\n") == b"data: b\r\n\r\n"


def test_an_event_without_end_is_let_go_of_and_known_to_be_torn() -> None:
    boundary = EventBoundary()
    piece = b"x" * 100_000
    out = 0
    for _ in range(events._LONGEST // len(piece) + 1):
        out += len(boundary.feed(piece))
    assert out > events._LONGEST
    assert boundary.torn
    assert boundary.feed(b"\n\ndata: b\n\n").endswith(b"data: b\n\n")
    assert not boundary.torn
