"""Names of OpenTelemetry's semantic conventions that Weft uses, in spans and in metrics.

The published constants of the gen_ai conventions are deprecated, and what they moved to is in no package: so they stand
here, as https://opentelemetry.io/docs/specs/semconv/gen-ai/ has them. Prometheus writes dots as underscores.
"""

from __future__ import annotations

from typing import Final

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
USAGE_CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - no secret

VLLM: Final = "vllm"
"""The provider's name."""

OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
}
"""The conventions' names of operations; the others are called by their last word."""


def operation_name(operation: str) -> str:
    """What the conventions call an operation that is given by its path: `chat` for `/v1/chat/completions`. For paths
    that the mesh carries; not for labels of metrics, which need a bounded set.
    """
    return OPERATIONS.get(operation) or operation.rpartition("/")[2]
