"""A span's place, as frames carry it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.trace_context import TraceContext, parse, unpack

PLACES = st.builds(
    TraceContext.of,
    st.integers(1, (1 << 128) - 1).map("{:032x}".format),
    st.integers(1, (1 << 64) - 1).map("{:016x}".format),
    st.booleans(),
    st.sampled_from(["", "a=1", "a=1,b=2"]),
)


@given(PLACES)
def test_what_was_packed_is_unpacked(place: TraceContext) -> None:
    assert (len(place.packed), unpack(place.packed, place.state)) == (25, place)


@given(PLACES)
def test_a_place_can_be_read_as_a_header(place: TraceContext) -> None:
    assert parse(place.traceparent, place.state) == place
    assert TraceContext.of(place.trace_id, place.span_id, place.sampled, place.state) == place


@given(PLACES)
def test_a_child_is_another_span_of_the_same_trace(place: TraceContext) -> None:
    for child, sampled in (
        (place.child(), place.sampled),
        (place.decided(sampled=True), True),
        (place.decided(sampled=False), False),
    ):
        assert (child.trace_id, child.state, child.sampled) == (place.trace_id, place.state, sampled)
        assert child.span_id != place.span_id


@pytest.mark.parametrize(
    "packed",
    [b"", b"\1" * 24, b"\1" * 26, b"\0" * 25, b"\0" * 16 + b"\1" * 9, b"\1" * 16 + b"\0" * 9],
)
def test_what_nobody_has_packed_is_no_place(packed: bytes) -> None:
    assert unpack(packed) is None


def test_a_state_that_no_header_can_hold_is_left() -> None:
    place = unpack(b"\1" * 25, "a=1\r\nx-evil: 1")
    assert place is not None
    assert (place.sampled, place.state) == (True, "")
