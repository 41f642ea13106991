"""Messages from what is short to write: a text, or OpenAI's JSON as Python has it. What is known becomes fields, and
all else goes along as JSON, so that nothing is lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from weft.inference.v1.chat_pb2 import (
    ChatMessage,
    ContentPart,
    ContentParts,
    FunctionCall,
    FunctionDefinition,
    ImageUrl,
    JsonSchema,
    ResponseFormat,
    Tool,
    ToolCall,
)

Json = Mapping[str, Any]
Message = ChatMessage | Json | str
Messages = str | Iterable[Message]
"""`"Hello"`, which is the user's; or what was said so far: texts of the user's, objects, messages."""

_HALF: Final = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair."""


def to_messages(messages: Messages) -> list[ChatMessage]:
    """The messages as they are sent."""
    return [to_message(message) for message in ([messages] if isinstance(messages, str) else messages)]


def to_message(message: Message) -> ChatMessage:
    """One of them. Raises KeyError for an object without `role`."""
    if isinstance(message, ChatMessage):
        return message
    if isinstance(message, str):
        return ChatMessage(role="user", text=message)
    rest = {name: value for name, value in message.items() if value is not None}
    sent = ChatMessage(role=rest.pop("role"))
    content = rest.pop("content", None)
    if isinstance(content, str):
        sent.text = content
    elif content is not None:
        sent.parts.CopyFrom(ContentParts(parts=[_part(part) for part in content]))
    for name in ("name", "tool_call_id", "reasoning", "refusal"):
        if name in rest:
            setattr(sent, name, rest.pop(name))
    sent.tool_calls.extend(_tool_call(call) for call in rest.pop("tool_calls", ()))
    sent.extra_json = to_json(rest)
    return sent


def tool(name: str, description: str = "", parameters: Json | str | None = None) -> Tool:
    """A function that the model may call; `parameters` is the JSON Schema of its arguments.

    tool("weather", "The weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}}})
    """
    function = FunctionDefinition(name=name, description=description or None, parameters_json=to_json(parameters))
    return Tool(type="function", function=function)


def tool_result(call: ToolCall, result: str) -> ChatMessage:
    """What a tool that the model called has given."""
    return ChatMessage(role="tool", tool_call_id=call.id, text=result)


def json_schema(name: str, schema: Json | str) -> ResponseFormat:
    """Holds an answer to a JSON Schema: `chat(…, response_format=json_schema("city", {…}))`. The order of the schema's
    keys is that of the answer's.
    """
    return ResponseFormat(type="json_schema", json_schema=JsonSchema(name=name, schema_json=to_json(schema)))


def to_json(value: Any) -> str:
    """JSON text for a field `…_json`: text stands as it is; none and an empty object are the empty field."""
    if isinstance(value, str):
        return value
    if not value:
        return ""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", text)  # which JSON can spell, and no field can hold


def _part(part: Json) -> ContentPart:
    kind, names = part.get("type"), set(part) - {"type"}
    if kind == "text" and names == {"text"}:
        return ContentPart(text=part["text"])
    if kind == "image_url" and names == {"image_url"} and set(part["image_url"]) <= {"url", "detail"}:
        return ContentPart(image_url=ImageUrl(**part["image_url"]))
    return ContentPart(other_json=to_json(part))


def _tool_call(call: ToolCall | Json) -> ToolCall:
    if isinstance(call, ToolCall):
        return call
    rest = {name: value for name, value in call.items() if name not in ("id", "type", "function")}
    function = FunctionCall(name=call["function"]["name"], arguments=call["function"]["arguments"])
    return ToolCall(id=call["id"], type=call.get("type", "function"), function=function, extra_json=to_json(rest))
