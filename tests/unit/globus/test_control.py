"""What the control makes of the SDK's answers and errors."""

import json
from pathlib import Path
from typing import Any

import globus_sdk
import pytest
import requests

from services.globus.control import Control, EndpointStatus
from services.globus.errors import GlobusError, Kind
from services.globus.sources import MODULES, Source, read_source, sha256_of

SOURCE = Source("functions/probe", "probe", '"""Looks around.\n\nAt length."""\n\ndef probe(request):\n    return {}\n')


def api_error(status: int, body: dict[str, Any]) -> globus_sdk.GlobusAPIError:
    response = requests.Response()
    response.status_code, response._content = status, json.dumps(body).encode()
    response.headers["Content-Type"] = "application/json"
    response.request = requests.Request("GET", "http://localhost:5000/").prepare()
    return globus_sdk.GlobusAPIError(response)


class FakeClient:
    """At the SDK's boundary: gives `answer`, or raises it; `asked` is what it was asked last."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: tuple[Any, ...] = ()

    def _give(self, *asked: Any) -> Any:
        self.asked = asked
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def register_source_code(
        self, source: str, function_name: str, description: str | None = None, *, ha_endpoint_id: str | None = None
    ) -> str:
        return str(self._give(source, function_name, description, ha_endpoint_id))

    def get_function(self, function_id: str) -> Any:
        return self._give(function_id)

    def get_endpoint_metadata(self, endpoint_uuid: str) -> Any:
        return self._give(endpoint_uuid)

    def get_endpoint_status(self, endpoint_uuid: str) -> Any:
        return self._give(endpoint_uuid)

    def get_allowed_functions(self, endpoint_id: str) -> Any:
        return self._give(endpoint_id)


def test_a_function_travels_as_its_source() -> None:
    client = FakeClient("some-uuid")
    assert Control(client).register(SOURCE) == "some-uuid"
    assert client.asked == (SOURCE.text, "probe", "Looks around.\n\nAt length.", None)
    Control(client).register(SOURCE, ha_endpoint_uuid="ha")
    assert client.asked[-1] == "ha"


@pytest.mark.parametrize("framed", [SOURCE.text, f"st\nprobe:{SOURCE.text}", f"99\nst\nprobe:{SOURCE.text}"])
def test_the_source_comes_back_however_it_is_framed(framed: str) -> None:
    assert Control(FakeClient({"function_code": framed})).source_of("u", "probe") == SOURCE.text


def test_endpoints_answer() -> None:
    online = FakeClient({"status": "online", "details": {"total_workers": 2}})
    assert Control(online).status("e") == EndpointStatus(True, {"total_workers": 2})
    assert Control(FakeClient({"status": "offline"})).status("e") == EndpointStatus(False)
    assert Control(FakeClient({"restricted": True, "functions": ["a"]})).allowed_functions("e") == {"a"}
    assert Control(FakeClient({"restricted": True, "functions": []})).allowed_functions("e") == frozenset()
    assert Control(FakeClient({"restricted": False, "functions": []})).allowed_functions("e") is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (api_error(404, {"code": "ENDPOINT_NOT_FOUND", "reason": "x"}), Kind.UNKNOWN_ENDPOINT),
        (api_error(422, {"detail": "not a UUID"}), Kind.UNKNOWN_ENDPOINT),
        (api_error(401, {"code": "UNAUTHORIZED", "reason": "x"}), Kind.BAD_CREDENTIALS),
        (api_error(503, {}), Kind.SERVICE_UNAVAILABLE),
        (globus_sdk.NetworkError("x", OSError("refused")), Kind.SERVICE_UNAVAILABLE),
        (KeyError("restricted"), Kind.OTHER),
    ],
)
def test_errors_have_a_kind(error: Exception, kind: Kind) -> None:
    for ask in (Control.status, Control.metadata, Control.allowed_functions):
        with pytest.raises(GlobusError) as caught:
            ask(Control(FakeClient(error)), "e")
        assert caught.value.kind is kind
        assert caught.value.remedy


def test_a_function_that_is_gone() -> None:
    with pytest.raises(GlobusError) as caught:
        Control(FakeClient(api_error(404, {}))).source_of("u", "probe")
    assert caught.value.kind is Kind.UNKNOWN_FUNCTION


def test_a_source_is_its_file(tmp_path: Path) -> None:
    (tmp_path / "queue_status.py").write_text(SOURCE.text)
    source = read_source("functions/queue-status", tmp_path)
    assert (source.function, source.text, source.sha256) == ("queue_status", SOURCE.text, sha256_of(SOURCE.text))
    assert list(MODULES.values()) == ["start_worker", "inference", "batch", "queue_status", "probe"]
