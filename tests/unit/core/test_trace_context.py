"""A span's place, as frames carry it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.trace_context import TraceContext, new_span_id, new_trace_id, unpack

PLACES = st.builds(
    lambda sampled, state: TraceContext(new_trace_id(), new_span_id(), sampled, state),
    st.booleans(),
    st.sampled_from(["", "a=1", "a=1,b=2"]),
)


@given(PLACES)
def test_what_was_packed_is_unpacked(place: TraceContext) -> None:
    packed = place.pack()
    assert (len(packed), unpack(packed, place.state)) == (25, place)


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
