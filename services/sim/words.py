"""The simulated tokenizer and the words of its answers."""

from __future__ import annotations

import hashlib
import itertools

#: Bytes of UTF-8 in one prompt token: about what English takes with a real tokenizer.
TOKEN_BYTES = 4

#: How many words there are; a prime, so that every stride visits all of them before one comes again.
_VOCABULARY = 1021


def count_tokens(text: bytes) -> int:
    """The number of prompt tokens of UTF-8 `text`."""
    return -(-len(text) // TOKEN_BYTES)


def tokenize(text: bytes) -> list[int]:
    """The token ids of UTF-8 `text`. A leading 1 keeps the length of the last, shorter token."""
    return [int.from_bytes(b"\x01" + text[i : i + TOKEN_BYTES]) for i in range(0, len(text), TOKEN_BYTES)]


def detokenize(tokens: list[int]) -> bytes:
    """The text of token ids; the inverse of `tokenize`. Raises ValueError for an id outside the vocabulary."""
    pieces = []
    for token in tokens:
        size = (token.bit_length() - 1) // 8
        if token < 1 or token.bit_length() % 8 != 1 or not 1 <= size <= TOKEN_BYTES:
            raise ValueError(f"token id {token} is not in the vocabulary")
        pieces.append(token.to_bytes(size + 1)[1:])
    return b"".join(pieces)


def _vocabulary() -> tuple[bytes, ...]:
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    pairs = ["".join(pair) for pair in itertools.product(syllables, repeat=2)]
    # Neighbours in the product look alike: step through it, and lengthen every third word.
    words = [pairs[i * 1543 % len(pairs)] + (syllables[i % len(syllables)] if i % 3 == 0 else "") for i in range(2000)]
    return tuple(f" {word}".encode() for word in dict.fromkeys(words))[:_VOCABULARY]


WORDS = _vocabulary()


def answer_words(prompt: bytes, seed: int, count: int) -> tuple[bytes, ...]:
    """The `count` tokens that answer `prompt`: the same for the same prompt and seed, varied from word to word."""
    digest = hashlib.blake2b(prompt, digest_size=8, key=(seed % 2**64).to_bytes(8)).digest()
    start = int.from_bytes(digest[:4]) % _VOCABULARY
    stride = 1 + int.from_bytes(digest[4:]) % (_VOCABULARY - 1)
    words = WORDS
    return tuple([words[(start + i * stride) % _VOCABULARY] for i in range(count)])
