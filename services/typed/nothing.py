"""Members without a field, which vLLM's answers have as null where there is nothing to tell."""

from __future__ import annotations

from typing import Final

MEANT_NOTHING: Final = frozenset(
    {
        "annotations",
        "audio",
        "completion_tokens_details",
        "created_cache_tokens",
        "ec_transfer_params",
        "function_call",
        "kv_transfer_params",
        "metrics",
        "multi_modal",
        "multimodal_tokens",
        "prompt_logprobs",
        "prompt_text",
        "prompt_token_ids",
        "reasoning_content",
        "routed_experts",
        "service_tier",
        "system_fingerprint",
        "token_ids",
    }
)
