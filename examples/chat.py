"""Asks a model one thing: python examples/chat.py [QUESTION]"""

import os
import sys

from weft.client import Client

MODEL = os.environ.get("WEFT_MODEL", "sim-model")

with Client() as client:  # the router and the key in WEFT_ROUTER and WEFT_KEY; by default those of `weft up`
    answer = client.chat(MODEL, " ".join(sys.argv[1:]) or "What is a weft?", max_tokens=64)

choice = answer.choices[0]
print(choice.message.text)
print(f"({choice.finish_reason}; {answer.usage.prompt_tokens} tokens in, {answer.usage.completion_tokens} out)")
