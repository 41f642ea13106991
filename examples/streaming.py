"""Shows an answer as it comes, and what is waited for before: python examples/streaming.py [QUESTION]"""

import os
import sys

from weft.client import Client

MODEL = os.environ.get("WEFT_MODEL", "sim-model")

with Client() as client, client.stream_chat(MODEL, " ".join(sys.argv[1:]) or "Tell of looms.", max_tokens=64) as stream:
    for piece in stream:
        if piece.progress:
            print(f"[{piece.progress}]", file=sys.stderr)  # the model is being started
        for delta in piece.deltas:
            print(delta.content, end="", flush=True)
    answer = stream.result()  # the pieces, joined: as `chat` would have given it

print(f"\n({answer.choices[0].finish_reason}; {answer.usage.completion_tokens} tokens)")
