"""Whatever a request or an answer says, it says the same on the other side, and nothing of it is lost."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from services.typed.messages import answer_json, answer_of, request_json, request_of
from tests.testing.typed import ANSWERS, REQUESTS, messages, objects, plain, told

OFTEN = settings(max_examples=100, deadline=None)


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
@OFTEN
@given(data=st.data())
def test_a_body_survives_as_a_message(kind: type[Message], data: st.DataObject) -> None:
    body = data.draw(objects(kind.DESCRIPTOR))
    assert plain(request_json(request_of(kind, body.encode()))) == plain(body)


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
@OFTEN
@given(data=st.data())
def test_a_request_survives_as_a_body(kind: type[Message], data: st.DataObject) -> None:
    request = data.draw(messages(kind.DESCRIPTOR))
    body = request_json(request)
    again = request_of(kind, body)
    assert plain(request_json(again)) == plain(body)


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.__name__)
@OFTEN
@given(data=st.data())
def test_an_answer_tells_the_same_as_a_message(kind: type[Message], data: st.DataObject) -> None:
    body = data.draw(objects(kind.DESCRIPTOR))
    assert told(plain(answer_json(answer_of(kind, body.encode())))) == told(plain(body))


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.__name__)
@OFTEN
@given(data=st.data())
def test_a_message_tells_the_same_as_an_answer(kind: type[Message], data: st.DataObject) -> None:
    answer: Any = data.draw(messages(kind.DESCRIPTOR))
    body = answer_json(answer)
    again = answer_of(kind, body)
    assert told(plain(answer_json(again))) == told(plain(body))
