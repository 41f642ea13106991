"""However an answer is cut into pieces, gathered it is the same."""

import json

from hypothesis import given
from hypothesis import strategies as st
from weft.client import gather
from weft.client.gathering import gather_completion
from weft.inference.v1 import chat_pb2, completions_pb2, logprobs_pb2, usage_pb2

from tests.unit.client.server import END, START, said


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """A text, in pieces; some may be empty."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@st.composite
def streams(draw: st.DrawFn) -> tuple[chat_pb2.ChatResponse, list[chat_pb2.StreamChatResponse]]:
    """An answer, and pieces of it: every choice in its own order, the choices mixed."""
    whole = chat_pb2.ChatResponse(id="chat-1", created=7, model="m", extra_json='{"service_tier":"x"}')
    whole.usage.CopyFrom(usage_pb2.Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3))
    deltas: list[list[chat_pb2.ChatDelta]] = []
    ends = []
    for index in range(draw(st.integers(1, 3))):
        choice = whole.choices.add(index=index, finish_reason="stop", stop_reason_json='"x"')
        choice.message.role = "assistant"
        mine = [chat_pb2.ChatDelta(index=index, role="assistant")]
        if draw(st.booleans()):
            choice.message.reasoning = draw(st.text())
            mine += [chat_pb2.ChatDelta(index=index, reasoning=r) for r in draw(cut(choice.message.reasoning))]
        if draw(st.booleans()):
            choice.message.text = draw(st.text())
            for place, text in enumerate(draw(cut(choice.message.text))):
                token = logprobs_pb2.TokenLogprob(token=text, logprob=-float(place))
                choice.logprobs.content.append(token)
                delta = chat_pb2.ChatDelta(index=index, content=text, extra_json=f'{{"token_ids":[{place}]}}')
                delta.logprobs.content.append(token)
                mine.append(delta)
            choice.extra_json = to_json({"token_ids": list(range(len(choice.logprobs.content)))})
        for number in range(draw(st.integers(0, 2))):
            call = choice.message.tool_calls.add(id=f"call-{number}", type="function")
            call.function.name, call.function.arguments = "weather", draw(st.text())
            first = chat_pb2.ToolCallDelta(index=number, id=call.id, type=call.type, name=call.function.name)
            rest = [chat_pb2.ToolCallDelta(index=number, arguments=a) for a in draw(cut(call.function.arguments))]
            mine += [chat_pb2.ChatDelta(index=index, tool_calls=[delta]) for delta in (first, *rest)]
        ends.append(chat_pb2.ChoiceEnd(index=index, finish_reason="stop", stop_reason_json='"x"'))
        deltas.append(mine)
    start = chat_pb2.ChatStart(id="chat-1", created=7, model="m", extra_json=whole.extra_json)
    pieces = [
        chat_pb2.StreamChatResponse(progress="Waiting"),
        chat_pb2.StreamChatResponse(start=start),
    ]
    while any(deltas):
        mine = draw(st.sampled_from([some for some in deltas if some]))
        together = draw(st.integers(1, 3))
        pieces.append(chat_pb2.StreamChatResponse(deltas=mine[:together]))
        del mine[:together]
    pieces.append(chat_pb2.StreamChatResponse(end=chat_pb2.ChatEnd(choices=ends, usage=whole.usage)))
    return whole, pieces


def to_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


@given(streams())
def test_any_cut_gathers_to_the_same(stream: tuple[chat_pb2.ChatResponse, list[chat_pb2.StreamChatResponse]]) -> None:
    whole, pieces = stream
    assert gather(pieces) == whole


@given(st.text(), st.data())
def test_completions(text: str, data: st.DataObject) -> None:
    cuts = data.draw(cut(text))
    pieces = [completions_pb2.StreamCompleteResponse(start=completions_pb2.CompletionStart(id="c", model="m"))]
    for place, piece in enumerate(cuts):
        logprobs = completions_pb2.CompletionLogprobs(
            text_offset=[place], tokens=[piece], extra_json=f'{{"token_logprobs":[{place}]}}'
        )
        delta = completions_pb2.CompletionDelta(text=piece, logprobs=logprobs)
        pieces.append(completions_pb2.StreamCompleteResponse(deltas=[delta]))
    end = chat_pb2.ChoiceEnd(finish_reason="length")
    pieces.append(completions_pb2.StreamCompleteResponse(end=completions_pb2.CompletionEnd(choices=[end])))
    (choice,) = gather_completion(pieces).choices
    assert (choice.text, choice.finish_reason) == (text, "length")
    assert list(choice.logprobs.tokens) == cuts
    assert json.loads(choice.logprobs.extra_json)["token_logprobs"] == list(range(len(cuts)))


def test_what_has_no_field_goes_to_where_it_belongs() -> None:
    deltas = [
        chat_pb2.ChatDelta(content="A", extra_json='{"delta":{"refusal":null,"thought":"wa"}}'),
        chat_pb2.ChatDelta(
            content="B", extra_json='{"delta":{"refusal":"No.","thought":"rp"},"seen":12345678901234567890}'
        ),
    ]
    (choice,) = gather([START, chat_pb2.StreamChatResponse(deltas=deltas), END]).choices
    assert choice.message.refusal == "No."
    assert choice.message.extra_json == '{"thought":"warp"}'
    assert choice.extra_json == '{"seen":12345678901234567890}'


def test_what_an_answer_tells_later() -> None:
    begun = chat_pb2.StreamChatResponse(start=chat_pb2.ChatStart(id="c", extra_json='{"a":1,"b":[1]}'))
    later = chat_pb2.StreamChatResponse(extra_json='{"b":[2],"system_fingerprint":"f"}')
    assert gather([begun, later, END]).extra_json == '{"a":1,"b":[2],"system_fingerprint":"f"}'
    start = completions_pb2.StreamCompleteResponse(start=completions_pb2.CompletionStart(id="c"))
    more = completions_pb2.StreamCompleteResponse(extra_json='{"system_fingerprint":"\\ud800"}')
    assert gather_completion([start, more]).extra_json == more.extra_json


def test_what_a_call_of_a_tool_tells_besides() -> None:
    calls = [
        chat_pb2.ToolCallDelta(id="call-0", name="look", extra_json='{"x":1,"function":{"y":2}}'),
        chat_pb2.ToolCallDelta(arguments="{}", extra_json='{"z":3}'),
    ]
    deltas = [chat_pb2.ChatDelta(tool_calls=[call]) for call in calls]
    (choice,) = gather([START, chat_pb2.StreamChatResponse(deltas=deltas), END]).choices
    (call,) = choice.message.tool_calls
    assert (call.extra_json, call.function.extra_json) == ('{"x":1,"z":3}', '{"y":2}')


def test_an_end_without_usage() -> None:
    assert not gather([START, chat_pb2.StreamChatResponse(end=chat_pb2.ChatEnd())]).HasField("usage")


def test_tool_calls_go_by_their_index() -> None:
    calls = [chat_pb2.ToolCallDelta(index=index, id=f"call-{index}") for index in (1, 0)]
    (choice,) = gather([chat_pb2.StreamChatResponse(deltas=[chat_pb2.ChatDelta(tool_calls=calls)])]).choices
    assert [call.id for call in choice.message.tool_calls] == ["call-0", "call-1"]


def test_what_there_is_of_a_cut_answer() -> None:
    answer = gather([START, said("Hel")])
    assert answer.choices[0].message.text == "Hel"
    assert not answer.HasField("usage")
