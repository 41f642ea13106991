"""Resource names are checked and taken apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.errors import Reason, ServiceError
from services.core.names import EndpointName, check, endpoint_name, slug


def test_names_are_taken_apart() -> None:
    assert check("cluster", "clusters/sophia") == ("sophia",)
    assert check("route", "routes/llama-3.1_8b") == ("llama-3.1_8b",)
    name = endpoint_name("clusters/sophia/endpoints/vllm-1")
    assert name == EndpointName("sophia", "vllm-1")
    assert (str(name), name.parent) == ("clusters/sophia/endpoints/vllm-1", "clusters/sophia")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "sophia",
        "clusters/",
        "clusters/Sophia",
        "clusters/-a",
        "clusters/a-",
        "clusters/a b",
        "clusters/a\n",
        "clusters/a/endpoints/b",
        "clusters/" + "a" * 64,
        "clusters/\u0430",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ServiceError) as caught:
        check("cluster", name, param="cluster.name")
    assert caught.value.reason is Reason.ARGUMENT_INVALID
    assert caught.value.param == "cluster.name"
    assert "clusters/{cluster}" in caught.value.message


def test_the_longest_id() -> None:
    assert check("key", "keys/" + "a" * 63)


def test_a_slug_of_a_model() -> None:
    assert slug("meta-llama/Llama-3.1-8B") == "meta-llama-llama-3.1-8b"
    assert slug("///") == ""


@given(st.text())
def test_a_slug_is_an_id_or_empty(text: str) -> None:
    made = slug(text)
    assert not made or check("route", f"routes/{made}") == (made,)
