"""Words, tokens and the prefix cache."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sim.cache import PrefixCache
from services.sim.words import WORDS, answer_words, count_tokens, detokenize, tokenize


@given(st.text())
def test_detokenize_undoes_tokenize(text):
    tokens = tokenize(text.encode())
    assert detokenize(tokens).decode() == text
    assert len(tokens) == count_tokens(text.encode())


@pytest.mark.parametrize("token", [0, -1, 1, 255, 26725, 1 << 40])
def test_an_unknown_token_is_refused_by_name(token):
    with pytest.raises(ValueError, match=f"token id {token} "):
        detokenize([token])


def test_the_vocabulary_needs_no_escaping_and_has_no_word_twice():
    assert len(set(WORDS)) == len(WORDS) == 1021
    assert all(word[1:].isalpha() and word.isascii() and word.startswith(b" ") for word in WORDS)


def test_answers_depend_on_prompt_and_seed_alone_and_are_varied():
    words = answer_words(b"why", 1, 500)
    assert words == answer_words(b"why", 1, 500)
    assert words[:100] == answer_words(b"why", 1, 100)
    assert words != answer_words(b"why", 2, 500)
    assert words != answer_words(b"who", 1, 500)
    assert len(set(words)) == 500


def test_only_common_prefixes_of_whole_blocks_hit():
    cache = PrefixCache(100)
    block = b"0123456789abcdef" * 4
    assert cache.admit(block * 3) == 0
    assert cache.admit(block * 2 + b"other" * 30) == 32
    assert cache.admit(b"other" + block * 3) == 0
    # The last token is always computed, so the block that ends the prompt is never a hit.
    assert cache.admit(block) == 0
    assert cache.admit(block + b"!") == 16


def test_the_least_recently_used_block_goes_first():
    cache = PrefixCache(2)
    one, two, three = (bytes([n]) * 65 for n in (1, 2, 3))
    for prompt in (one, two, one, three):
        cache.admit(prompt)
    assert cache.admit(one) == 16
    assert cache.admit(two) == 0


def test_without_blocks_nothing_is_counted():
    cache = PrefixCache(0)
    assert cache.admit(b"x" * 1000) == cache.admit(b"x" * 1000) == cache.queried_tokens == 0


def test_a_block_whose_predecessor_is_gone_is_no_hit():
    cache = PrefixCache(2)
    prompt = b"".join(bytes([n]) * 64 for n in range(3)) + b"!"
    assert cache.admit(prompt) == 0
    assert cache.admit(prompt) == 0
