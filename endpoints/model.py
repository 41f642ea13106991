"""A model: how vLLM is launched for it, wherever. One YAML file each, in `endpoints/models`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

_Positive = Annotated[int, msgspec.Meta(ge=1)]


class Tools(msgspec.Struct, frozen=True):
    """vLLM's tool calling: its parser for this model, and a chat template where the model's own does not do."""

    parser: str
    chat_template: str | None = None


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One model and vLLM's settings for it.

    `name` is what it is served as; `path` is what vLLM loads, if that is something else. Each of `nodes` nodes gives
    `tensor_parallel` x `pipeline_parallel` / `nodes` GPUs. `flags` are further words of vLLM's command line.
    `start_timeout` is in seconds, for each of `attempts` starts.
    """

    about: str
    name: str
    aliases: tuple[str, ...] = ()
    path: str | None = None
    nodes: _Positive = 1
    tensor_parallel: _Positive = 1
    pipeline_parallel: _Positive = 1
    runner: Literal["generate", "pooling"] = "generate"
    max_model_len: _Positive | None = None
    gpu_memory_utilization: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    tools: Tools | None = None
    flags: tuple[str, ...] = ()
    variables: dict[str, str] = {}
    start_timeout: _Positive = 3600
    attempts: _Positive = 2
