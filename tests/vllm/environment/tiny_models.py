"""Make two tiny models with random weights, offline: usage `tiny_models.py FOLDER`, in vLLM's environment.

FOLDER/chat is a Llama that talks nonsense quickly, with a chat template that knows tools; FOLDER/embed is a BERT.
They are the same on every machine: the seeds are fixed.
"""

import itertools
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 1024
CHAT_CONTEXT = 8192
EMBED_CONTEXT = 512
SPECIAL = ["<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<tool_call>", "</tool_call>"]

CHAT_TEMPLATE = """\
{{ bos_token }}
{%- if tools %}<|system|>{{ tools | tojson }}{{ eos_token }}{% endif %}
{%- for message in messages %}
{%- set role = message['role'] if message['role'] in ('assistant', 'system') else 'user' %}{{ '<|' + role + '|>' }}
{%- if message['content'] is string %}{{ message['content'] }}
{%- elif message['content'] %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}
{{- eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""


def sentences(count: int) -> Iterator[str]:
    """Sentences of invented words: enough for the tokenizer to learn pieces longer than a byte."""
    choose = random.Random(0)
    syllables = ["".join(pair) for pair in itertools.product("bcdfghjklmnprstvwz", "aeiou")]
    words = ["".join(choose.choices(syllables, k=choose.randint(1, 4))) for _ in range(900)]
    for _ in range(count):
        yield " ".join(choose.choices(words, k=choose.randint(4, 20))).capitalize() + choose.choice(".!?\n")


def tokenizer(context: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE, so that any text, emoji included, can be read and written."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(sentences(4000), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=SPECIAL[0], eos_token=SPECIAL[1], pad_token=SPECIAL[2], model_max_length=context
    )


def make_chat(folder: Path) -> None:
    words = tokenizer(CHAT_CONTEXT)
    words.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CHAT_CONTEXT,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)


def make_embed(folder: Path) -> None:
    words = tokenizer(EMBED_CONTEXT)
    words.cls_token, words.sep_token, words.mask_token = SPECIAL[:3]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=EMBED_CONTEXT,
        pad_token_id=words.pad_token_id,
    )
    BertModel(config).save_pretrained(folder)
    words.save_pretrained(folder)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    make_chat(target / "chat")
    make_embed(target / "embed")
