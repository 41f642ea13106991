"""Whole answers from the pieces of streams. However an answer was cut into pieces, it is the same. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from weft.client.messages import to_json
from weft.inference.v1.chat_pb2 import (
    ChatChoice,
    ChatDelta,
    ChatMessage,
    ChatResponse,
    ChatStart,
    ChoiceEnd,
    StreamChatResponse,
    ToolCall,
    ToolCallDelta,
)
from weft.inference.v1.completions_pb2 import (
    CompleteResponse,
    CompletionChoice,
    CompletionDelta,
    CompletionLogprobs,
    CompletionStart,
    StreamCompleteResponse,
)
from weft.inference.v1.logprobs_pb2 import Logprobs


def gather(pieces: Iterable[StreamChatResponse]) -> ChatResponse:
    """The answer of which these are the pieces, in order; what there is of it, if the last are missing."""
    answer = ChatResponse()
    choices: dict[int, _Choice] = {}
    extra: dict[str, Any] = {}
    for piece in pieces:
        if piece.HasField("start"):
            _begin(answer, piece.start)
        for delta in piece.deltas:
            choices.setdefault(delta.index, _Choice(delta.index)).add(delta)
        extra.update(_object(piece.extra_json))
        if piece.HasField("end"):
            if piece.end.HasField("usage"):
                answer.usage.CopyFrom(piece.end.usage)
            for end in piece.end.choices:
                choices.setdefault(end.index, _Choice(end.index)).end = end
    answer.choices.extend(choices[index].whole() for index in sorted(choices))
    if extra:
        answer.extra_json = to_json(_object(answer.extra_json) | extra)
    return answer


def gather_completion(pieces: Iterable[StreamCompleteResponse]) -> CompleteResponse:
    """The same for completions."""
    answer = CompleteResponse()
    choices: dict[int, _Completion] = {}
    extra: dict[str, Any] = {}
    for piece in pieces:
        if piece.HasField("start"):
            _begin(answer, piece.start)
        for delta in piece.deltas:
            choices.setdefault(delta.index, _Completion(delta.index)).add(delta)
        extra.update(_object(piece.extra_json))
        if piece.HasField("end"):
            if piece.end.HasField("usage"):
                answer.usage.CopyFrom(piece.end.usage)
            for end in piece.end.choices:
                choices.setdefault(end.index, _Completion(end.index)).end = end
    answer.choices.extend(choices[index].whole() for index in sorted(choices))
    if extra:
        answer.extra_json = to_json(_object(answer.extra_json) | extra)
    return answer


def _begin(answer: ChatResponse | CompleteResponse, start: ChatStart | CompletionStart) -> None:
    answer.id, answer.created = start.id, start.created
    answer.model, answer.extra_json = start.model, start.extra_json


@dataclass(slots=True)
class _Call:
    """A call of a tool, as far as it has come."""

    call: ToolCall = field(default_factory=ToolCall)
    arguments: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)

    def add(self, delta: ToolCallDelta) -> None:
        self.call.id = delta.id or self.call.id
        self.call.type = delta.type or self.call.type
        self.call.function.name = delta.name or self.call.function.name
        self.arguments.append(delta.arguments)
        _join(self.extra, _object(delta.extra_json))

    def whole(self) -> ToolCall:
        extra = dict(self.extra)
        self.call.function.arguments = "".join(self.arguments)
        self.call.function.extra_json = to_json(extra.pop("function", {}))
        self.call.extra_json = to_json(extra)
        return self.call


@dataclass(slots=True)
class _Choice:
    """A choice of a chat, as far as it has come."""

    index: int
    role: str = "assistant"
    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, _Call] = field(default_factory=dict)
    logprobs: list[Logprobs] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    end: ChoiceEnd = field(default_factory=ChoiceEnd)

    def add(self, delta: ChatDelta) -> None:
        if delta.HasField("role"):
            self.role = delta.role
        if delta.HasField("content"):
            self.content.append(delta.content)
        if delta.HasField("reasoning"):
            self.reasoning.append(delta.reasoning)
        for call in delta.tool_calls:
            self.calls.setdefault(call.index, _Call()).add(call)
        if delta.HasField("logprobs"):
            self.logprobs.append(delta.logprobs)
        _join(self.extra, _object(delta.extra_json))

    def whole(self) -> ChatChoice:
        extra = dict(self.extra)
        members = extra.pop("delta", {})
        message = ChatMessage(
            role=self.role,
            tool_calls=[self.calls[index].whole() for index in sorted(self.calls)],
            refusal=members.pop("refusal", None),
            extra_json=to_json(members),
        )
        if self.content:
            message.text = "".join(self.content)
        if self.reasoning:
            message.reasoning = "".join(self.reasoning)
        choice = ChatChoice(
            index=self.index,
            message=message,
            finish_reason=self.end.finish_reason,
            stop_reason_json=self.end.stop_reason_json,
            extra_json=to_json(extra),
        )
        if self.logprobs:
            more: dict[str, Any] = {}
            for logprobs in self.logprobs:
                choice.logprobs.content.extend(logprobs.content)
                _join(more, _object(logprobs.extra_json))
            choice.logprobs.extra_json = to_json(more)
        return choice


@dataclass(slots=True)
class _Completion:
    """A choice of a completion, as far as it has come."""

    index: int
    text: list[str] = field(default_factory=list)
    logprobs: list[CompletionLogprobs] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    end: ChoiceEnd = field(default_factory=ChoiceEnd)

    def add(self, delta: CompletionDelta) -> None:
        self.text.append(delta.text)
        if delta.HasField("logprobs"):
            self.logprobs.append(delta.logprobs)
        _join(self.extra, _object(delta.extra_json))

    def whole(self) -> CompletionChoice:
        choice = CompletionChoice(
            index=self.index,
            text="".join(self.text),
            finish_reason=self.end.finish_reason,
            stop_reason_json=self.end.stop_reason_json,
            extra_json=to_json(self.extra),
        )
        if self.logprobs:
            more: dict[str, Any] = {}
            for logprobs in self.logprobs:
                choice.logprobs.text_offset.extend(logprobs.text_offset)
                choice.logprobs.tokens.extend(logprobs.tokens)
                _join(more, _object(logprobs.extra_json))
            choice.logprobs.extra_json = to_json(more)
        return choice


def _object(text: str) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(text) if text else {}
    return members


def _join(whole: dict[str, Any], piece: dict[str, Any], *, texts: bool = False) -> None:
    """Adds a piece's members to those that have come. Lists go on, and texts within `delta`; of all else the last is
    what holds.
    """
    for name, new in piece.items():
        old = whole.get(name)
        if isinstance(new, dict):
            if not isinstance(old, dict):
                old = whole[name] = {}
            _join(old, new, texts=texts or name == "delta")
        elif isinstance(old, list) and isinstance(new, list):
            old += new
        elif texts and isinstance(old, str) and isinstance(new, str):
            whole[name] = old + new
        elif new is not None or name not in whole:
            whole[name] = new
