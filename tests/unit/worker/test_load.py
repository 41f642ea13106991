"""vLLM's load, read from its page of metrics."""

from __future__ import annotations

from pathlib import Path

import pytest
from weft.session.v1 import frame_pb2

from services.worker.load import parse_load

PAGE = (Path(__file__).parents[2] / "golden" / "vllm" / "metrics.txt").read_text()


def test_a_page_of_the_simulator():
    assert parse_load(PAGE) == frame_pb2.Load(
        num_requests_running=0,
        num_requests_waiting=0,
        kv_cache_usage=0.0,
        prefix_cache_queries=9,
        prefix_cache_hits=0,
        prompt_tokens=9,
        generation_tokens=5,
    )


def test_of_several_engines_counts_add_up_and_the_fullest_cache_counts():
    page = "\n".join(
        f'vllm:{name}{{engine="{engine}",model_name="a b{{"}} {value}'
        for engine, (running, usage) in enumerate([(3, 0.25), (4, 0.75), (5, 0.5)])
        for name, value in (("num_requests_running", f"{running}.0"), ("kv_cache_usage_perc", usage))
    )
    load = parse_load(page)
    assert (load.num_requests_running, load.kv_cache_usage) == (12, 0.75)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "x", ""])
def test_a_sample_that_is_no_count_spoils_no_other(value):
    load = parse_load(f"vllm:num_requests_running {value}\nvllm:num_requests_waiting 2.0\n")
    assert (load.num_requests_running, load.num_requests_waiting) == (0, 2)


@pytest.mark.parametrize("page", ["", "<html>", "vllm:", "vllm:num_requests_running", "# TYPE vllm:x gauge"])
def test_a_page_that_says_nothing(page):
    assert parse_load(page) == frame_pb2.Load()
