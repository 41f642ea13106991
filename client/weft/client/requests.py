"""Requests from keyword arguments. Each of these also takes the request itself, for what the arguments do not say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypedDict, TypeVar

from google.protobuf.message import Message as Proto
from weft.client.messages import Json, Messages, to_json, to_messages
from weft.inference.v1.chat_pb2 import ChatRequest, ResponseFormat, Tool, ToolChoice
from weft.inference.v1.completions_pb2 import CompleteRequest, Prompt, TokenIds
from weft.inference.v1.embeddings_pb2 import EmbedRequest
from weft.inference.v1.inference_pb2 import InferRequest
from weft.inference.v1.ranking_pb2 import RerankRequest, ScoreRequest
from weft.inference.v1.sampling_pb2 import Sampling
from weft.inference.v1.tokens_pb2 import ChatMessages, DetokenizeRequest, TokenizeRequest

Text = str | Sequence[int]
"""A text, or the ids of its tokens."""
Texts = str | Iterable[Text]
Request = TypeVar("Request", bound=Proto)


class Options(TypedDict, total=False):
    """What every request has. `extra` are further members of the body, whatever the model server takes."""

    extra: Json | str
    cluster: str


class SamplingOptions(Options, total=False):
    """The fields of `Sampling`."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    n: int
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias: Mapping[str, float]
    min_tokens: int
    ignore_eos: bool
    include_stop_str_in_output: bool
    skip_special_tokens: bool
    prompt_logprobs: int
    structured_outputs: Json | str
    user: str


class ChatOptions(SamplingOptions, total=False):
    """Fields of `ChatRequest`. `tool_choice` is `none`, `auto`, `required`, or the name of a function."""

    tools: Sequence[Tool]
    tool_choice: str | ToolChoice
    parallel_tool_calls: bool
    response_format: ResponseFormat
    logprobs: bool
    top_logprobs: int
    reasoning_effort: str
    include_reasoning: bool
    chat_template_kwargs: Json | str


class CompleteOptions(SamplingOptions, total=False):
    """Fields of `CompleteRequest`."""

    logprobs: int
    echo: bool
    suffix: str
    response_format: ResponseFormat


class EmbedOptions(Options, total=False):
    """Fields of `EmbedRequest`."""

    dimensions: int
    truncate_prompt_tokens: int
    user: str


class RerankOptions(Options, total=False):
    """Fields of `RerankRequest`."""

    top_n: int
    truncate_prompt_tokens: int


class ScoreOptions(Options, total=False):
    """Fields of `ScoreRequest`."""

    truncate_prompt_tokens: int


class TokenizeOptions(Options, total=False):
    """Fields of `TokenizeRequest`."""

    add_special_tokens: bool
    return_token_strs: bool
    add_generation_prompt: bool


_MODES: Final = ("none", "auto", "required")
_SAMPLING: Final = frozenset(Sampling.DESCRIPTOR.fields_by_name)
_JSON: Final = {
    "extra": "extra_json",
    "chat_template_kwargs": "chat_template_kwargs_json",
    "structured_outputs": "structured_outputs_json",
}


def chat_request(model: str | ChatRequest, messages: Messages, options: ChatOptions) -> ChatRequest:
    """A chat. Raises ValueError for an option that there is not."""
    if not isinstance(model, str):
        return _alone(model, messages, options)
    sampling, fields = _split(options)
    if isinstance(choice := fields.pop("tool_choice", None), str):
        choice = ToolChoice(mode=choice) if choice in _MODES else ToolChoice(function=choice)
    return ChatRequest(model=model, messages=to_messages(messages), sampling=sampling, tool_choice=choice, **fields)


def complete_request(model: str | CompleteRequest, prompts: Texts, options: CompleteOptions) -> CompleteRequest:
    """Texts to go on with. Raises ValueError for an option that there is not."""
    if not isinstance(model, str):
        return _alone(model, prompts, options)
    sampling, fields = _split(options)
    return CompleteRequest(model=model, prompts=_prompts(prompts), sampling=sampling, **fields)


def embed_request(model: str | EmbedRequest, inputs: Texts, options: EmbedOptions) -> EmbedRequest:
    """Texts to embed. Raises ValueError for an option that there is not."""
    if not isinstance(model, str):
        return _alone(model, inputs, options)
    return EmbedRequest(model=model, inputs=_prompts(inputs), **_named(options))


def rerank_request(
    model: str | RerankRequest, query: str, documents: Iterable[str], options: RerankOptions
) -> RerankRequest:
    """Documents to bring into order. Raises ValueError for an option that there is not."""
    if not isinstance(model, str):
        return _alone(model, query, documents, options)
    return RerankRequest(model=model, query=query, documents=documents, **_named(options))


def score_request(
    model: str | ScoreRequest, first: str | Iterable[str], second: str | Iterable[str], options: ScoreOptions
) -> ScoreRequest:
    """Pairs to score. Raises ValueError for an option that there is not."""
    if not isinstance(model, str):
        return _alone(model, first, second, options)
    return ScoreRequest(model=model, text_1=_texts(first), text_2=_texts(second), **_named(options))


def tokenize_request(model: str | TokenizeRequest, what: Messages, options: TokenizeOptions) -> TokenizeRequest:
    """A text to split, or a chat. Raises ValueError for an option that there is not."""
    if not isinstance(model, str):
        return _alone(model, what, options)
    if isinstance(what, str):
        return TokenizeRequest(model=model, prompt=what, **_named(options))
    return TokenizeRequest(model=model, chat=ChatMessages(messages=to_messages(what)), **_named(options))


def detokenize_request(model: str | DetokenizeRequest, tokens: Iterable[int], options: Options) -> DetokenizeRequest:
    """Tokens to join. Raises ValueError for an option that there is not."""
    if not isinstance(model, str):
        return _alone(model, tokens, options)
    return DetokenizeRequest(model=model, tokens=tokens, **_named(options))


def infer_request(operation: str | InferRequest, body: Json | str, cluster: str) -> InferRequest:
    """A call with OpenAI's JSON."""
    if not isinstance(operation, str):
        return _alone(operation, body, cluster)
    return InferRequest(operation=operation, body_json=to_json(body) or "{}", cluster=cluster)


def _alone(request: Request, *others: object) -> Request:
    if any(others):
        raise TypeError(f"Give the {type(request).__name__}, or what goes into one, not both.")
    return request


def _split(options: Mapping[str, Any]) -> tuple[Sampling | None, dict[str, Any]]:
    """The options that are Sampling's, and the others."""
    fields = _named(options)
    sampling = {name: fields.pop(name) for name in list(fields) if name in _SAMPLING}
    if "stop" in sampling:
        sampling["stop"] = _texts(sampling["stop"])
    return (Sampling(**sampling) if sampling else None), fields


def _named(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options under the names of their fields."""
    return {_JSON.get(name, name): to_json(value) if name in _JSON else value for name, value in options.items()}


def _texts(texts: str | Iterable[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def _prompts(texts: Texts) -> list[Prompt]:
    return [
        Prompt(text=text) if isinstance(text, str) else Prompt(tokens=TokenIds(ids=text))
        for text in ([texts] if isinstance(texts, str) else texts)
    ]
