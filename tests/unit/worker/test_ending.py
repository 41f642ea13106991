"""The moment until which calls may go on in a job that ends."""

import pytest

from services.worker.ending import calls_until


@pytest.mark.parametrize(("drain_before", "until"), [(300.0, 990.0), (50.0, 990.0), (5.0, 999.0), (1.0, 999.8)])
def test_vllm_has_time_to_stop_after_the_calls(drain_before: float, until: float) -> None:
    assert calls_until(1000.0, drain_before) == pytest.approx(until)
