"""The prefix cache: which beginnings of prompts the engine has seen."""

from __future__ import annotations

from collections import OrderedDict

from services.sim.words import TOKEN_BYTES, count_tokens

#: Tokens of one block, vLLM's default `--block-size` on GPUs.
BLOCK_TOKENS = 16

_BLOCK_BYTES = BLOCK_TOKENS * TOKEN_BYTES


class PrefixCache:
    """Blocks of prompts, least recently used out first.

    A block is known by the hash of itself and of all before it, so a hit is always a common prefix:
    https://docs.vllm.ai/en/latest/design/prefix_caching.html
    """

    def __init__(self, blocks: int) -> None:
        self._capacity = blocks
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self.queried_tokens = 0
        self.hit_tokens = 0

    def admit(self, prompt: bytes) -> int:
        """Remembers the prompt; returns how many of its tokens, from the first on, were there already.

        At least one token is always computed, as in vLLM, where the last one gives the logits.
        """
        if not self._capacity:
            return 0
        self.queried_tokens += count_tokens(prompt)
        known, parent, prefix = 0, 0, True
        for end in range(_BLOCK_BYTES, len(prompt), _BLOCK_BYTES):
            parent = hash((parent, prompt[end - _BLOCK_BYTES : end]))
            if parent in self._blocks:
                self._blocks.move_to_end(parent)
                known += prefix
            else:
                prefix = False
                self._blocks[parent] = None
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)
        hit = known * BLOCK_TOKENS
        self.hit_tokens += hit
        return hit
